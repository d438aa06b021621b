package cli

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/csv"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"unicode/utf8"
)

// maxImportRow bounds one row of a file, so that memory is bounded whatever the
// file holds.
const maxImportRow = 1 << 20

// badRow is a row that cannot be read; the next may be better.
type badRow struct {
	line   int64
	reason string
}

func (e *badRow) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.reason) }

// rowReader gives a file's rows, each as a JSON object with its line's number.
// The error is a *badRow, io.EOF at the end, or what ends the import.
type rowReader interface {
	next() (line int64, text []byte, err error)
}

// importSource is the file that is imported.
type importSource struct {
	file   *os.File
	input  io.Reader // instead of file, while it cannot be read twice
	spool  bool      // the file is a copy that goes when it is closed
	format string
	size   int64        // in bytes as it lies there, 0 if unknown
	read   atomic.Int64 // bytes of it that were read
}

// openImport opens a file, or standard input for "-".
func openImport(name, format string, stdin io.Reader) (*importSource, error) {
	s := &importSource{format: format}
	if format == "" {
		s.format = formatOf(name)
	}
	switch {
	case s.format != "csv" && s.format != "ndjson" && format != "":
		return nil, usagef("--format %s: write csv or ndjson", format)
	case s.format == "" && name == "-":
		return nil, usagef("standard input has no name to tell its format by; add --format csv or --format ndjson")
	case s.format == "":
		return nil, usagef("the name %s does not tell its format; add --format csv or --format ndjson", name)
	case name == "-":
		s.input = stdin
		return s, nil
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, usagef("%w", err)
	}
	s.file = file
	info, err := file.Stat()
	if err != nil || info.IsDir() {
		return nil, errors.Join(usagef("%s is not a file", name), file.Close())
	}
	if info.Mode().IsRegular() {
		s.size = info.Size()
	} else { // a pipe with a name can be read once only, as standard input
		s.input = file
	}
	return s, nil
}

// formatOf tells a file's format by its name, empty if it does not say.
func formatOf(name string) string {
	switch filepath.Ext(strings.TrimSuffix(strings.ToLower(name), ".gz")) {
	case ".csv":
		return "csv"
	case ".ndjson", ".jsonl":
		return "ndjson"
	}
	return ""
}

// Close closes the file.
func (s *importSource) Close() error {
	if s.file == nil {
		return nil
	}
	err := s.file.Close()
	if s.spool {
		err = errors.Join(err, os.Remove(s.file.Name()))
	}
	return err
}

// hash returns the SHA-256 of the file's content, decompressed, in hexadecimal.
// What can be read only once is copied to a temporary file for that.
func (s *importSource) hash(ctx context.Context) (string, error) {
	if s.input != nil {
		if err := s.copyInput(ctx); err != nil {
			return "", err
		}
	}
	content, err := s.content()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, untilDone{ctx, content}); err != nil {
		return "", fmt.Errorf("reading the file: %w", err)
	}
	if _, err := s.file.Seek(0, io.SeekStart); err != nil {
		return "", fmt.Errorf("reading the file again: %w", err)
	}
	s.read.Store(0)
	return hex.EncodeToString(sum.Sum(nil)), nil
}

func (s *importSource) copyInput(ctx context.Context) error {
	spool, err := os.CreateTemp("", "millrace-import-*")
	if err != nil {
		return fmt.Errorf("the input must be copied to be read twice: %w; or name the import with --import-id", err)
	}
	if s.file != nil {
		if err := s.file.Close(); err != nil {
			return errors.Join(err, spool.Close(), os.Remove(spool.Name()))
		}
	}
	input := s.input
	s.file, s.input, s.spool = spool, nil, true
	if s.size, err = io.Copy(spool, untilDone{ctx, input}); err == nil {
		_, err = spool.Seek(0, io.SeekStart)
	}
	if err != nil {
		return fmt.Errorf("copying the input to %s: %w; or name the import with --import-id", spool.Name(), err)
	}
	return nil
}

// untilDone is a reader that fails once its context has ended.
type untilDone struct {
	ctx context.Context
	r   io.Reader
}

func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.r.Read(p)
}

// counted counts what is read.
type counted struct {
	r io.Reader
	n *atomic.Int64
}

func (c counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n.Add(int64(n))
	return n, err
}

// content returns the file's content, decompressed if it begins as gzip does, and
// without a byte order mark.
func (s *importSource) content() (*bufio.Reader, error) {
	raw := s.input
	if raw == nil {
		raw = s.file
	}
	r := bufio.NewReaderSize(counted{raw, &s.read}, 64<<10)
	if magic, _ := r.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		zr, err := gzip.NewReader(r)
		if err != nil {
			return nil, fmt.Errorf("the file is not valid gzip: %w", err)
		}
		r = bufio.NewReaderSize(zr, 64<<10)
	}
	if mark, _ := r.Peek(3); bytes.Equal(mark, []byte("\xef\xbb\xbf")) {
		_, _ = r.Discard(3) // it was peeked at
	}
	return r, nil
}

// rows returns the rows of the file.
func (s *importSource) rows(kind *importKind) (rowReader, error) {
	content, err := s.content()
	if err != nil {
		return nil, err
	}
	if s.format == "csv" {
		return newCSVRows(content, kind)
	}
	return &jsonRows{r: content}, nil
}

// jsonRows reads NDJSON.
type jsonRows struct {
	r    *bufio.Reader
	line int64
	buf  []byte
}

func (j *jsonRows) next() (int64, []byte, error) {
	for {
		text, err := j.readLine()
		if err != nil {
			return 0, nil, err
		}
		if text = bytes.TrimSpace(text); len(text) == 0 {
			continue
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(text, &members); err != nil || members == nil {
			return 0, nil, &badRow{j.line, "is not a JSON object; write one a line"}
		}
		if members["line"] != nil {
			return 0, nil, &badRow{j.line, `has a member "line", which is not known`}
		}
		if !utf8.Valid(text) {
			return 0, nil, &badRow{j.line, "is not valid UTF-8"}
		}
		// The text stays as it is, so that the server sees all that is wrong with it, such
		// as a member that is there twice.
		out := fmt.Appendf(nil, `{"line":%d`, j.line)
		if len(members) > 0 {
			out = append(out, ',')
		}
		return j.line, append(out, text[1:]...), nil
	}
}

// readLine returns the next line, io.EOF behind the last.
func (j *jsonRows) readLine() ([]byte, error) {
	j.buf = j.buf[:0]
	j.line++
	long := false
	for {
		part, err := j.r.ReadSlice('\n')
		if len(j.buf)+len(part) > maxImportRow {
			long = true
			j.buf = j.buf[:0]
		}
		if !long {
			j.buf = append(j.buf, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case long && (err == nil || err == io.EOF):
			return nil, &badRow{j.line, fmt.Sprintf("is longer than %d bytes", maxImportRow)}
		case err == io.EOF && len(j.buf) > 0:
			return j.buf, nil // the last line needs no end
		case err == io.EOF:
			return nil, io.EOF
		case err != nil:
			return nil, fmt.Errorf("reading line %d: %w", j.line, err)
		}
		return j.buf, nil
	}
}

// csvRows reads CSV with a header.
type csvRows struct {
	r      *csv.Reader
	limit  *rowLimit
	header []string
	kind   *importKind
}

// rowLimit is a reader that fails when too much is read for one row, which is what
// a quote that is not closed leads to.
type rowLimit struct {
	r    io.Reader
	left int
}

var errRowTooLong = fmt.Errorf("a row is longer than %d bytes; is a quote not closed?", maxImportRow)

func (l *rowLimit) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errRowTooLong
	}
	n, err := l.r.Read(p[:min(len(p), l.left)])
	l.left -= n
	return n, err
}

func newCSVRows(content *bufio.Reader, kind *importKind) (*csvRows, error) {
	c := &csvRows{limit: &rowLimit{r: content, left: maxImportRow}, kind: kind}
	c.r = csv.NewReader(c.limit)
	c.r.FieldsPerRecord = -1 // we say it better
	c.r.ReuseRecord = true
	c.r.Comma = separatorOf(content)
	header, err := c.r.Read()
	if err == io.EOF {
		return nil, usagef("the file is empty; its first line must name the columns: %s", kind.columns)
	}
	if err != nil {
		return nil, fmt.Errorf("reading the line that names the columns: %w", err)
	}
	seen := map[string]bool{}
	for _, name := range header {
		name = strings.TrimSpace(name)
		switch {
		case !kind.column(name):
			return nil, usagef("the column %q is not known; the columns are %s", name, kind.columns)
		case seen[name]:
			return nil, usagef("the column %q is there twice", name)
		}
		seen[name] = true
		c.header = append(c.header, name)
	}
	if !seen[kind.key] {
		return nil, usagef("there is no column %s; the columns are %s", kind.key, kind.columns)
	}
	return c, nil
}

// separatorOf tells what stands between the columns: a comma, or what spreadsheets
// of other countries write.
func separatorOf(content *bufio.Reader) rune {
	head, _ := content.Peek(4096)
	head, _, _ = bytes.Cut(head, []byte("\n"))
	for _, c := range []rune{',', ';', '\t'} {
		if bytes.ContainsRune(head, c) {
			return c
		}
	}
	return ','
}

func (c *csvRows) next() (int64, []byte, error) {
	c.limit.left = maxImportRow
	record, err := c.r.Read()
	var wrong *csv.ParseError
	switch {
	case errors.As(err, &wrong):
		return 0, nil, &badRow{int64(wrong.StartLine), wrong.Err.Error()}
	case err != nil:
		return 0, nil, err
	}
	at, _ := c.r.FieldPos(0)
	line := int64(at)
	if len(record) != len(c.header) {
		return 0, nil, &badRow{line, fmt.Sprintf("has %d columns, the first line has %d", len(record), len(c.header))}
	}
	cells := make(map[string]string, len(record))
	for i, cell := range record {
		if !utf8.ValidString(cell) {
			return 0, nil, &badRow{line, c.header[i] + " is not valid UTF-8; save the file as UTF-8"}
		}
		if cell = strings.TrimSpace(cell); cell != "" {
			cells[c.header[i]] = cell
		}
	}
	members, err := c.kind.row(cells)
	if err != nil {
		return 0, nil, &badRow{line, err.Error()}
	}
	text, err := lineJSON(line, members)
	return line, text, err
}

package sandbox

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
)

// maxLine bounds a line of the ledger, in bytes: a record with every field at its
// longest, each byte escaped.
const maxLine = 32 << 10

// maxTail bounds what an interrupted write can leave behind, in bytes: one batch.
const maxTail = maxBatch * maxLine

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// fileLedger is the append-only file of the sandbox: one line for each record, its
// CRC-32C in hexadecimal, a space and the record as JSON. One goroutine at a time.
type fileLedger struct {
	file *os.File
	size int64 // what is known to be written
}

// openFile opens or makes the file and hands every record to apply, in order. A
// line at the end that was not written to its end is cut off: nobody was told of
// it. A damaged line before a good one is an error.
func openFile(path string, apply func(record) error) (*fileLedger, error) {
	_, err := os.Stat(path)
	isNew := errors.Is(err, os.ErrNotExist)
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the sandbox's ledger: %w", err)
	}
	l := &fileLedger{file: file}
	if isNew {
		err = syncDirectory(filepath.Dir(path))
	} else {
		err = l.replay(path, apply)
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return l, nil
}

func (l *fileLedger) replay(path string, apply func(record) error) error {
	r := bufio.NewReaderSize(l.file, maxLine)
	for {
		line, err := r.ReadSlice('\n')
		if err == io.EOF && len(line) == 0 {
			return nil
		}
		if err != nil && err != io.EOF && err != bufio.ErrBufferFull {
			return fmt.Errorf("read the sandbox's ledger %s: %w", path, err)
		}
		rec, ok := decodeLine(line)
		if err != nil || !ok {
			return l.cutTail(path)
		}
		if err := apply(rec); err != nil {
			return fmt.Errorf("the sandbox's ledger %s contradicts itself at byte %d: %w; move it away to begin a new one, or put a good copy in its place", path, l.size, err)
		}
		l.size += int64(len(line))
	}
}

// cutTail removes what begins at l.size, if no good line follows.
func (l *fileLedger) cutTail(path string) error {
	damaged := fmt.Errorf("the sandbox's ledger %s is damaged at byte %d, before records that are good; move it away to begin a new one, or put a good copy in its place", path, l.size)
	rest, err := io.ReadAll(io.NewSectionReader(l.file, l.size, maxTail+1))
	if err != nil {
		return fmt.Errorf("read the sandbox's ledger %s: %w", path, err)
	}
	if len(rest) > maxTail {
		return damaged
	}
	for line := range bytes.SplitAfterSeq(rest, []byte{'\n'}) {
		if _, ok := decodeLine(line); ok {
			return damaged
		}
	}
	if err := l.file.Truncate(l.size); err != nil {
		return fmt.Errorf("cut the unfinished end off the sandbox's ledger %s: %w", path, err)
	}
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("sync the sandbox's ledger %s: %w", path, err)
	}
	return nil
}

// append makes lines durable. After an error what the file holds is not known,
// and the ledger must not be used any more.
func (l *fileLedger) append(lines []byte) error {
	if _, err := l.file.WriteAt(lines, l.size); err != nil {
		return fmt.Errorf("write the sandbox's ledger: %w", err)
	}
	if err := l.file.Sync(); err != nil {
		return fmt.Errorf("sync the sandbox's ledger: %w", err)
	}
	l.size += int64(len(lines))
	return nil
}

// encodeLine appends the record's line to buf.
func encodeLine(buf []byte, rec record) ([]byte, error) {
	body, err := json.Marshal(rec)
	if err != nil {
		return buf, fmt.Errorf("encode a record of the sandbox's ledger: %w", err)
	}
	buf = fmt.Appendf(buf, "%08x ", crc32.Checksum(body, castagnoli))
	buf = append(buf, body...)
	return append(buf, '\n'), nil
}

func decodeLine(line []byte) (rec record, ok bool) {
	if len(line) < 10 || line[8] != ' ' || line[len(line)-1] != '\n' {
		return record{}, false
	}
	var sum [4]byte
	if _, err := hex.Decode(sum[:], line[:8]); err != nil {
		return record{}, false
	}
	body := line[9 : len(line)-1]
	want := uint32(sum[0])<<24 | uint32(sum[1])<<16 | uint32(sum[2])<<8 | uint32(sum[3])
	if crc32.Checksum(body, castagnoli) != want {
		return record{}, false
	}
	return rec, json.Unmarshal(body, &rec) == nil
}

func syncDirectory(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync the directory of the sandbox's ledger: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("sync the directory of the sandbox's ledger: %w", err)
	}
	return nil
}

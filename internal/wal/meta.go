package wal

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"path"
	"time"

	"millrace/internal/wal/vfs"
)

const (
	metaName     = "meta"
	metaTempName = "meta.new"
	maxMetaBytes = 64 << 10
)

// meta is what a log knows about itself beside its records. It is written once,
// when the log is born: after the first segment, so that a meta file without
// segments means that they are missing.
type meta struct {
	Version   int       `json:"version"`
	LogID     string    `json:"logId"`
	CreatedAt time.Time `json:"createdAt"`
}

// encodeMeta writes a line of JSON and a line with its checksum.
func encodeMeta(m meta) ([]byte, error) {
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(b, "\ncrc32c %08x\n", crc32.Checksum(b, castagnoli)), nil
}

func decodeMeta(b []byte) (meta, ID, error) {
	var m meta
	var id ID
	line, rest, _ := bytes.Cut(b, []byte("\n"))
	if want := fmt.Sprintf("crc32c %08x\n", crc32.Checksum(line, castagnoli)); string(rest) != want {
		return m, id, errors.New("its checksum does not match")
	}
	if err := json.Unmarshal(line, &m); err != nil {
		return m, id, fmt.Errorf("it is not JSON: %w", err)
	}
	if m.Version != formatVersion {
		return m, id, fmt.Errorf("it has format version %d, this program reads version %d", m.Version, formatVersion)
	}
	raw, err := hex.DecodeString(m.LogID)
	if err != nil || len(raw) != len(id) {
		return m, id, fmt.Errorf("its log id %q is not 32 hexadecimal digits", m.LogID)
	}
	copy(id[:], raw)
	return m, id, nil
}

// readMeta returns found = false if there is no meta file, and a *DamageError if
// it is unreadable.
func readMeta(fsys vfs.FS, dir string) (id ID, found bool, err error) {
	name := path.Join(dir, metaName)
	b, err := readFile(fsys, name, maxMetaBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return id, false, nil
	}
	if err != nil {
		return id, false, fmt.Errorf("wal: read %s: %w", name, err)
	}
	_, id, err = decodeMeta(b)
	if err != nil {
		return id, true, &DamageError{File: name, Reason: err.Error()}
	}
	return id, true, nil
}

// writeMeta makes the meta file durable, or leaves the one that is there.
func writeMeta(fsys vfs.FS, dir string, id ID, now time.Time) error {
	b, err := encodeMeta(meta{Version: formatVersion, LogID: hex.EncodeToString(id[:]), CreatedAt: now.UTC()})
	if err != nil {
		return err
	}
	return writeFileDurably(fsys, dir, metaTempName, metaName, b)
}

// writeFileDurably writes a file under a temporary name and renames it when it is
// safe, so that the file is whole or not there.
func writeFileDurably(fsys vfs.FS, dir, tempName, name string, content []byte) error {
	temp := path.Join(dir, tempName)
	if err := fsys.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := fsys.Create(temp)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(content, 0)
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = fsys.Rename(temp, path.Join(dir, name))
	}
	if err == nil {
		err = fsys.SyncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("wal: write %s: %w", path.Join(dir, name), err)
	}
	return nil
}

func readFile(fsys vfs.FS, name string, maxBytes int64) ([]byte, error) {
	f, err := fsys.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return nil, err
	}
	if size > maxBytes {
		return nil, fmt.Errorf("it has %d bytes, more than %d", size, maxBytes)
	}
	b := make([]byte, size)
	if _, err := readFull(f, b, 0); err != nil {
		return nil, err
	}
	return b, nil
}

// readFull fills b, whether or not the file ends with it.
func readFull(f io.ReaderAt, b []byte, off int64) (int, error) {
	n, err := f.ReadAt(b, off)
	if n == len(b) {
		return n, nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

package event

import "encoding/binary"

// A pack is a record that holds records: what several submissions wrote to a
// stream as one message. Its layout, version 3 of a record, in unsigned varints
// but for the version:
//
//	version u8 · count · count times: length, record
//
// A pack has one sequence. Its records are of versions 1 and 2.
const recordVersionPack = 3

// PackHeaderBytes and PackRecordBytes bound what a pack takes beyond its records.
const (
	PackHeaderBytes = 1 + binary.MaxVarintLen32
	PackRecordBytes = binary.MaxVarintLen32
)

// AppendPack appends a pack of the records to dst.
func AppendPack(dst []byte, records [][]byte) []byte {
	dst = append(dst, recordVersionPack)
	dst = binary.AppendUvarint(dst, uint64(len(records)))
	for _, r := range records {
		dst = binary.AppendUvarint(dst, uint64(len(r)))
		dst = append(dst, r...)
	}
	return dst
}

// eachRecord calls f with a record, or with every record of a pack in order.
func eachRecord(raw []byte, f func(record []byte) error) error {
	if len(raw) == 0 || raw[0] != recordVersionPack {
		return f(raw)
	}
	d := decoder{rest: raw[1:]}
	for range d.length() {
		r := d.bytes(d.length())
		if d.bad {
			return errRecord
		}
		if err := f(r); err != nil {
			return err
		}
	}
	if d.bad || len(d.rest) > 0 {
		return errRecord
	}
	return nil
}

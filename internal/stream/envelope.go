package stream

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/s2"
)

// A message is a pack (event.AppendPack) in an envelope, version 1:
//
//	version u8 · codec u8 · CRC-32C of the body, u32 little-endian · body
//
// The body is the pack, or the pack compressed as an S2 block, which makes common
// events a quarter: everything a cluster does with them costs that much less.
const (
	envelopeVersion = 1
	envelopeBytes   = 6
	codecNone       = 0
	codecS2         = 1
	// maxPackBytes bounds what a message may claim to become.
	maxPackBytes = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// errEnvelope says that a message was not written by this program, or by a newer one.
var errEnvelope = errors.New("the message is not one of ours, or of a newer version")

// seal returns the message that carries a pack, in a buffer of its own.
func seal(pack []byte) []byte {
	message := make([]byte, envelopeBytes+max(s2.MaxEncodedLen(len(pack)), len(pack)))
	body := s2.Encode(message[envelopeBytes:], pack)
	message[0], message[1] = envelopeVersion, codecS2
	if len(body) >= len(pack) {
		message[1] = codecNone
		body = message[envelopeBytes : envelopeBytes+len(pack)]
		copy(body, pack)
	}
	message = message[:envelopeBytes+len(body)]
	binary.LittleEndian.PutUint32(message[2:], crc32.Checksum(body, castagnoli))
	return message
}

// open returns the pack of a message; it may alias it.
func open(message []byte) ([]byte, error) {
	if len(message) < envelopeBytes || message[0] != envelopeVersion {
		return nil, errEnvelope
	}
	body := message[envelopeBytes:]
	if crc32.Checksum(body, castagnoli) != binary.LittleEndian.Uint32(message[2:]) {
		return nil, errors.New("the message is damaged: its checksum does not match")
	}
	switch message[1] {
	case codecNone:
		return body, nil
	case codecS2:
		n, err := s2.DecodedLen(body)
		if err != nil || n > maxPackBytes {
			return nil, errEnvelope
		}
		pack, err := s2.Decode(make([]byte, n), body)
		if err != nil {
			return nil, fmt.Errorf("the message cannot be decompressed: %w", err)
		}
		return pack, nil
	}
	return nil, errEnvelope
}

package follow

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
)

// Bounds of a message. One with the most scopes of the longest names fits.
const (
	messageVersion  = 1
	maxMessageBytes = 128 << 10
	messageScopes   = 250
	maxNameBytes    = 200
)

// message tells the other instances of changes. Members that a later release adds
// are ignored; one that changes what these mean raises Version.
type message struct {
	Version int    `json:"v"`
	Index   string `json:"index"`
	From    string `json:"from"`
	// Changes are the last changes by scope.
	Changes map[string]int64 `json:"changes,omitempty"`
	// More says that there were more changes than are told: look for yourself.
	More bool `json:"more,omitempty"`
}

// messages packs changes.
func messages(index, from string, changes map[string]int64, more bool) [][]byte {
	var out [][]byte
	m := message{Version: messageVersion, Index: index, From: from, Changes: map[string]int64{}, More: more}
	pack := func() {
		data, err := json.Marshal(&m)
		if err != nil {
			panic(err) // texts and numbers always can be
		}
		out = append(out, data)
		m.Changes, m.More = map[string]int64{}, false
	}
	for scope, change := range changes {
		if len(scope) > maxNameBytes {
			m.More = true
			continue
		}
		if m.Changes[scope] = change; len(m.Changes) == messageScopes {
			pack()
		}
	}
	if len(m.Changes) > 0 || m.More {
		pack()
	}
	return out
}

// readMessage is the inverse of messages. It judges what others sent.
func readMessage(data []byte) (message, error) {
	if len(data) > maxMessageBytes {
		return message{}, fmt.Errorf("it has %d bytes, the most are %d", len(data), maxMessageBytes)
	}
	var m message
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(&m); err != nil {
		return message{}, err
	}
	if m.Version != messageVersion {
		return message{}, fmt.Errorf("its version is %d, this release knows %d", m.Version, messageVersion)
	}
	if m.From == "" || m.Index == "" {
		return message{}, errors.New("it does not say of which index it is and who sent it")
	}
	if len(m.Changes) > messageScopes {
		return message{}, fmt.Errorf("it has %d scopes, the most are %d", len(m.Changes), messageScopes)
	}
	for scope, change := range m.Changes {
		if scope == "" || len(scope) > maxNameBytes || change <= 0 {
			return message{}, errors.New("a scope has no name or a very long one, or its change is not above zero")
		}
	}
	return m, nil
}

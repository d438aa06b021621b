package scan

// cloudField returns the field that a member of a CloudEvent is.
func cloudField(name []byte) field {
	switch string(name) {
	case "id":
		return fieldID
	case "type":
		return fieldType
	case "source":
		return fieldSource
	case "time":
		return fieldTime
	case "tenantid":
		return fieldTenant
	case "data":
		return fieldPayload
	case "data_base64":
		return fieldPayloadBase64
	case "specversion":
		return fieldSpecVersion
	}
	return fieldOther
}

// Reasons for a CloudEvent to be rejected.
const (
	reasonCloudID      = `"id" is missing: CloudEvents asks for it`
	reasonCloudSource  = `"source" is missing or empty: CloudEvents asks for it`
	reasonCloudType    = `"type" is missing: CloudEvents asks for it`
	reasonCloudVersion = `"specversion" is not "1.0": send CloudEvents 1.0`
	reasonCloudData    = `"data" and "data_base64" are both there: send one of them`
	reasonCloudBase64  = `"data_base64" is not a string of padded base64`
	reasonCloudName    = "a CloudEvents attribute has a name of other characters than a to z and 0 to 9: rename it"
	reasonCloudValue   = `a CloudEvents attribute is an object or an array: make it a string or move it into "data"`
)

// markBase64 is the attribute that tells a payload of base64 text, which came as
// "data_base64", from one that is a plain string.
const markBase64 = `"data_base64":true`

// payloadBase64 takes data_base64: the payload is the string as it is written.
func (s *Scanner) payloadBase64(e *Event, value []byte, escaped bool) {
	if value[0] != '"' {
		e.reject(reasonCloudBase64)
		return
	}
	from := len(s.arena)
	text := value[1 : len(value)-1]
	if escaped {
		text, _ = s.decode(text)
	}
	if !isBase64(text) {
		e.reject(reasonCloudBase64)
	}
	s.arena = s.arena[:from]
	if e.Payload != nil {
		e.reject(reasonCloudData)
		return
	}
	e.Payload, s.base64 = value, true
}

// checkExtension judges an attribute that has no field of its own.
func checkExtension(name, value []byte) (reason string) {
	if len(name) == 0 {
		return reasonCloudName
	}
	for _, c := range name {
		if c-'a' > 'z'-'a' && c-'0' > 9 {
			return reasonCloudName
		}
	}
	if value[0] == '{' || value[0] == '[' {
		return reasonCloudValue
	}
	return ""
}

// finishCloud judges what a CloudEvent lacks.
func (s *Scanner) finishCloud(e *Event) {
	switch {
	case !s.versioned:
		e.Reason = reasonCloudVersion
	case e.ID == nil:
		e.Reason = reasonCloudID
	case e.Source == nil:
		e.Reason = reasonCloudSource
	case e.Type == nil:
		e.Reason = reasonCloudType
	}
}

package scan

// Reasons for a timestamp to be refused.
const (
	reasonTimeForm  = `the timestamp is not an RFC 3339 time: write it like 2026-11-22T05:04:22.123Z`
	reasonTimeDay   = `the timestamp names a date or an hour that does not exist`
	reasonTimeLeap  = `the timestamp names a leap second, which cannot be kept: use second 59 or the next minute`
	reasonTimeRange = `the timestamp is out of range: years 1678 to 2261 can be kept`
)

// parseTime reads an RFC 3339 time with any fraction and offset, "t" and "z" of
// either case, and returns Unix nanoseconds; digits beyond those are cut off.
// The reason is empty when it succeeds.
func parseTime(b []byte) (ns int64, reason string) {
	if len(b) < len("2006-01-02T15:04:05Z") || b[4] != '-' || b[7] != '-' ||
		b[10]|0x20 != 't' || b[13] != ':' || b[16] != ':' {
		return 0, reasonTimeForm
	}
	century, year := two(b[0:]), two(b[2:])
	month, day := two(b[5:]), two(b[8:])
	hour, minute, second := two(b[11:]), two(b[14:]), two(b[17:])
	if century|year|month|day|hour|minute|second < 0 {
		return 0, reasonTimeForm
	}
	year += century * 100
	nano, rest, ok := fraction(b[19:])
	if !ok {
		return 0, reasonTimeForm
	}
	offset, ok := zone(rest)
	switch {
	case !ok:
		return 0, reasonTimeForm
	case second == 60:
		return 0, reasonTimeLeap
	case month < 1 || month > 12 || day < 1 || day > daysIn(year, month) || hour > 23 || minute > 59 || second > 59:
		return 0, reasonTimeDay
	case year < 1677 || year > 2263:
		return 0, reasonTimeRange
	}
	sec := int64(daysSinceEpoch(year, month, day))*86400 + int64(hour*3600+minute*60+second-offset)
	if sec < -maxSeconds || sec >= maxSeconds {
		return 0, reasonTimeRange
	}
	return sec*1e9 + int64(nano), ""
}

// maxSeconds is the whole seconds that fit into an int64 of nanoseconds.
const maxSeconds = (1<<63 - 1) / 1_000_000_000

// two returns the number that two digits write, or a negative number.
func two(b []byte) int {
	tens, ones := b[0]-'0', b[1]-'0'
	if tens > 9 || ones > 9 {
		return -1
	}
	return int(tens)*10 + int(ones)
}

// fraction reads the fraction of a second, if there is one, in nanoseconds.
func fraction(b []byte) (nano int, rest []byte, ok bool) {
	if len(b) == 0 || b[0] != '.' {
		return 0, b, true
	}
	i, unit := 1, 100_000_000
	for ; i < len(b) && b[i]-'0' <= 9; i++ {
		nano += int(b[i]-'0') * unit
		unit /= 10
	}
	return nano, b[i:], i > 1
}

// zone reads the offset from UTC in seconds.
func zone(b []byte) (offset int, ok bool) {
	if len(b) == 1 && b[0]|0x20 == 'z' {
		return 0, true
	}
	if len(b) != len("+00:00") || (b[0] != '+' && b[0] != '-') || b[3] != ':' {
		return 0, false
	}
	hour, minute := two(b[1:]), two(b[4:])
	if hour < 0 || hour > 23 || minute < 0 || minute > 59 {
		return 0, false
	}
	offset = hour*3600 + minute*60
	if b[0] == '-' {
		offset = -offset
	}
	return offset, true
}

func daysIn(year, month int) int {
	switch month {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if year%4 == 0 && (year%100 != 0 || year%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// daysSinceEpoch counts the days from 1970-01-01 in the Gregorian calendar. It
// counts in years that begin in March, so that the leap day is a year's last.
func daysSinceEpoch(year, month, day int) int {
	if month <= 2 {
		year--
		month += 12
	}
	const marchFirstYear0ToEpoch = 719468
	return year*365 + year/4 - year/100 + year/400 + (153*(month-3)+2)/5 + day - 1 - marchFirstYear0ToEpoch
}

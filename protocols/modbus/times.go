package modbus

import (
	"math"
	"time"

	"millrace/protocols"
)

// Date-times in registers. Those that count from 1970 say which moment they
// mean. The others are what the device's clock shows, and need its time zone.
// A date-time that cannot be (a 13th month, all zeros, all ones) is
// malformed: it is never normalised to one that can.

// moment is what a device's clock shows, as its registers say it and not
// checked yet. The zero moment cannot be.
type moment struct {
	year, month, day     int
	hour, minute, second int
	milli                int
	summer               bool // the clock is set to summer time, an hour ahead of its zone
}

// The years of a moment that fit in a protocols.Value with any time zone.
const (
	firstYear = 1678
	lastYear  = 2261
)

// dateTime is element for date-times.
func (f *field) dateTime(v *protocols.Value, data []byte) bool {
	switch f.scalar { //nolint:exhaustive // the rest is element's
	case typeUnix32:
		return fromUnix(v, uint64(f.long(data)), time.Second)
	case typeUnix64:
		return fromUnix(v, f.quad(data), time.Second)
	case typeUnix64ms:
		return fromUnix(v, f.quad(data), time.Millisecond)
	case typeIEC870:
		return f.local(v, f.iec870(data))
	case typeYMDHMS:
		return f.local(v, f.ymdhms(data))
	case typeYMDHMSms:
		return f.local(v, f.ymdhmsms(data))
	case typeYMDHMS8:
		return f.local(v, f.ymdhms8(data))
	case typeBCDTime:
		return f.local(v, f.bcdtime(data))
	default:
		return f.local(v, f.mdyhms(data))
	}
}

// fromUnix decodes what counts units since 1970 UTC. It is false beyond the
// year 2262, which is how "not available", all ones, looks in 64 bits.
func fromUnix(v *protocols.Value, n uint64, unit time.Duration) bool {
	if n > math.MaxInt64/uint64(unit) {
		return false
	}
	*v = protocols.Time(time.Unix(0, int64(n)*int64(unit)))
	return true
}

// local decodes m, which the device's clock shows. It is false if there is no
// such date or time.
func (f *field) local(v *protocols.Value, m moment) bool {
	if m.year < firstYear || m.year > lastYear || m.month < 1 || m.month > 12 || m.day < 1 ||
		m.hour > 23 || m.minute > 59 || m.second > 59 || m.milli > 999 {
		return false
	}
	t := time.Date(m.year, time.Month(m.month), m.day, m.hour, m.minute, m.second, m.milli*int(time.Millisecond), time.UTC)
	if t.Day() != m.day { // 30 February would be 2 March
		return false
	}
	ahead := time.Duration(f.zone) * time.Second
	if m.summer {
		ahead += time.Hour
	}
	*v = protocols.Time(t.Add(-ahead))
	return true
}

// iec870 is the date-time of IEC 60870-5-4 in four registers, the year first
// (Schneider iEM3000, DOCA0005; PM5000, Sepam, Compact NSX). It is one number
// of 64 bits, so that order CDAB is for devices that begin with the
// milliseconds (Siemens SICAM FCM, E50417-H8940-C580). The day of the week, in
// bits 5 to 7 of the second register, is not looked at: makers count it
// differently.
func (f *field) iec870(data []byte) moment {
	u := f.quad(data)
	if u>>16&0x80 != 0 { // iv: the clock says itself that it is wrong
		return moment{}
	}
	ms := int(u & 0xffff) // of the minute
	return moment{
		year:   2000 + int(u>>48&0x7f),
		month:  int(u >> 40 & 0xf),
		day:    int(u >> 32 & 0x1f),
		summer: u>>16&0x8000 != 0, // su
		hour:   int(u >> 24 & 0x1f),
		minute: int(u >> 16 & 0x3f),
		second: ms / 1000,
		milli:  ms % 1000,
	}
}

// ymdhms has one register for each part, the year in full (Accuenergy
// Acuvim, Rockwell Powermonitor).
func (f *field) ymdhms(data []byte) moment {
	return moment{
		year: int(f.word(data)), month: int(f.word(data[2:])), day: int(f.word(data[4:])),
		hour: int(f.word(data[6:])), minute: int(f.word(data[8:])), second: int(f.word(data[10:])),
	}
}

// ymdhmsms is ymdhms with the milliseconds of the second behind it.
func (f *field) ymdhmsms(data []byte) moment {
	m := f.ymdhms(data)
	m.milli = int(f.word(data[12:]))
	return m
}

// ymdhms8 has one byte for each part, the year without its century (Acrel
// ADL, CET PMC).
func (f *field) ymdhms8(data []byte) moment {
	ym, dh, ms := int(f.word(data)), int(f.word(data[2:])), int(f.word(data[4:]))
	if ym>>8 > 99 {
		return moment{}
	}
	return moment{
		year: 2000 + ym>>8, month: ym & 0xff, day: dh >> 8,
		hour: dh & 0xff, minute: ms >> 8, second: ms & 0xff,
	}
}

// bcdtime is ymdhms8 with two decimal digits in each byte.
func (f *field) bcdtime(data []byte) moment {
	ym, ok1 := fromBCD(uint64(f.word(data)), 16)
	dh, ok2 := fromBCD(uint64(f.word(data[2:])), 16)
	ms, ok3 := fromBCD(uint64(f.word(data[4:])), 16)
	if !ok1 || !ok2 || !ok3 {
		return moment{}
	}
	return moment{
		year: 2000 + int(ym/100), month: int(ym % 100), day: int(dh / 100),
		hour: int(dh % 100), minute: int(ms / 100), second: int(ms % 100),
	}
}

// mdyhms has one byte for each part, the month first (Schneider PM800,
// 63230-500-225; Circuit Monitor; Micrologic, 48049-136). The years of the
// first two count from 1900; Micrologic has two digits, which begin with 70
// for 1970. Both are understood, as nobody's clock shows 1969. The two
// highest bits do not belong to the month, says the manual of the last one.
func (f *field) mdyhms(data []byte) moment {
	md, yh, ms := int(f.word(data)), int(f.word(data[2:])), int(f.word(data[4:]))
	year := yh >> 8
	switch {
	case year > 199:
		return moment{}
	case year < 70:
		year += 2000
	default:
		year += 1900
	}
	return moment{
		year: year, month: md >> 8 & 0x3f, day: md & 0xff,
		hour: yh & 0xff, minute: ms >> 8, second: ms & 0xff,
	}
}

// parseZone reads an offset from UTC such as +08:00, to seconds.
func parseZone(s string) (seconds int32, ok bool) {
	t, err := time.Parse("Z07:00", s)
	if err != nil {
		return 0, false
	}
	_, offset := t.Zone()
	return int32(offset), true
}

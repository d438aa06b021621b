package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"
)

// How often the progress of an import is shown.
const (
	barEvery  = 200 * time.Millisecond
	lineEvery = 5 * time.Second
	barWidth  = 30
)

// importProgress shows how far an import is: a bar on a terminal, a line every few
// seconds elsewhere.
type importProgress struct {
	out      io.Writer
	terminal bool
	source   *importSource
	now      func() time.Time
	began    time.Time
	shown    time.Time
	onLine   bool // the bar stands on the terminal's line
}

func newImportProgress(out io.Writer, source *importSource, now func() time.Time) *importProgress {
	began := now()
	return &importProgress{out: out, terminal: isTerminal(out), source: source, now: now, began: began, shown: began}
}

// isTerminal says whether a bar can be drawn there.
func isTerminal(w io.Writer) bool {
	file, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// show shows how far it is, if that is due.
func (p *importProgress) show(done, bad int64) {
	now, every := p.now(), lineEvery
	if p.terminal {
		every = barEvery
	}
	if now.Sub(p.shown) < every {
		return
	}
	p.shown = now
	text := fmt.Sprintf("%d lines, %.0f/s", done, float64(done)/now.Sub(p.began).Seconds())
	if bad > 0 {
		text += fmt.Sprintf(", %d refused", bad)
	}
	if p.source.size > 0 {
		share := min(float64(p.source.read.Load())/float64(p.source.size), 1)
		if p.terminal {
			full := int(share * barWidth)
			text = "[" + strings.Repeat("#", full) + strings.Repeat(".", barWidth-full) + "] " + text
		}
		text += fmt.Sprintf(", %.0f %% of the file", 100*share)
	}
	if !p.terminal {
		fmt.Fprintln(p.out, text)
		return
	}
	fmt.Fprint(p.out, "\r\x1b[K"+text)
	p.onLine = true
}

// clear takes the bar away, so that something else can be written.
func (p *importProgress) clear() {
	if p.onLine {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.onLine = false
	}
}

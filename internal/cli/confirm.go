package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
)

// errDeclined says that the person who was asked said no.
var errDeclined = errors.New("nothing was changed, as you wished")

// confirm asks before something that cannot be undone. Where there is nobody to
// ask, only --yes will do: a script must say that it means it.
func (r *runner) confirm(what string, yes bool) error {
	if yes {
		return nil
	}
	if !r.stdio.Interactive {
		return usagef("%s? Nobody is there to be asked; add --yes if you mean it", what)
	}
	fmt.Fprintf(r.stdio.Err, "%s? [y/N] ", what)
	answer, err := bufio.NewReader(io.LimitReader(r.stdio.In, 1024)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("the answer cannot be read: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(answer)) {
	case "y", "yes":
		return nil
	default:
		return errDeclined
	}
}

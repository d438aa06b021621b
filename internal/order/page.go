package order

import (
	"fmt"
	"strings"
)

// SagaMarkdown writes the saga for readers: a state diagram (Mermaid, which most
// viewers of Markdown draw) and the table, both made of Transitions.
func SagaMarkdown() string {
	var b strings.Builder
	b.WriteString("```mermaid\nstateDiagram-v2\n")
	for _, t := range transitions {
		for _, to := range t.targets() {
			if to == t.From {
				continue // noted only, the picture is clearer without
			}
			from := string(t.From)
			if from == "" {
				from = "[*]"
			}
			fmt.Fprintf(&b, "    %s --> %s: %s\n", from, to, t.Event)
		}
	}
	for _, s := range Statuses() {
		if s.Terminal() {
			fmt.Fprintf(&b, "    %s --> [*]\n", s)
		}
	}
	b.WriteString("```\n\n| From | Event | To | Stock | |\n|---|---|---|---|---|\n")
	for _, t := range transitions {
		from := "–"
		if t.From != None {
			from = "`" + string(t.From) + "`"
		}
		var to []string
		for _, s := range t.targets() {
			to = append(to, "`"+string(s)+"`")
		}
		fmt.Fprintf(&b, "| %s | %s | %s | %s | %s |\n", from, t.Event, strings.Join(to, " or "), t.Stock, t.Note)
	}
	return b.String()
}

// targets returns the statuses that a transition can lead to.
func (t *Transition) targets() []Status {
	switch {
	case t.To != Then:
		return []Status{t.To}
	case t.From == Cancelling:
		return []Status{Cancelled, Expired}
	default:
		return []Status{Refunded, Shipped, Completed}
	}
}

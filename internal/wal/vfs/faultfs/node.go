package faultfs

import (
	"math/rand/v2"
	"slices"
)

const sectorBytes = 512

// node is a file or a directory (children is not nil), with what is on disk and
// the changes that are not.
type node struct {
	// A file.
	data    []byte // what a reader sees
	disk    []byte // what is on disk
	pending []write

	// A directory.
	children     map[string]*node
	diskChildren map[string]*node
	ops          [][]change
}

// write is one write that is not on disk; no data means that the file was extended
// to off.
type write struct {
	off  int64
	data []byte
}

// change gives a name to a node, or takes the name away (nil).
type change struct {
	name string
	node *node
}

func newDir() *node {
	return &node{children: map[string]*node{}, diskChildren: map[string]*node{}}
}

func (n *node) bytes() int64 {
	sum := int64(len(n.data))
	for _, c := range n.children {
		sum += c.bytes()
	}
	return sum
}

func (n *node) names() []string {
	names := make([]string, 0, len(n.children))
	for name := range n.children {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (n *node) write(off int64, b []byte) {
	w := write{off, slices.Clone(b)}
	n.pending = append(n.pending, w)
	n.data = w.apply(n.data)
}

func (n *node) extend(size int64) {
	w := write{off: size}
	n.pending = append(n.pending, w)
	n.data = w.apply(n.data)
}

func (w write) apply(to []byte) []byte {
	if end := w.off + int64(len(w.data)); end > int64(len(to)) {
		to = append(to, make([]byte, end-int64(len(to)))...)
	}
	copy(to[w.off:], w.data)
	return to
}

// sync puts all of a file on disk.
func (n *node) sync() {
	for _, w := range n.pending {
		n.disk = w.apply(n.disk)
	}
	n.pending = nil
}

// persist puts each pending sector on disk with some probability and forgets the
// others.
func (n *node) persist(rng *rand.Rand, probability float64) {
	for _, w := range n.pending {
		if len(w.data) == 0 && rng.Float64() < probability {
			n.disk = w.apply(n.disk)
		}
		for len(w.data) > 0 {
			size := min(sectorBytes-w.off%sectorBytes, int64(len(w.data)))
			if rng.Float64() < probability {
				n.disk = write{w.off, w.data[:size]}.apply(n.disk)
			}
			w.off, w.data = w.off+size, w.data[size:]
		}
	}
	n.pending = nil
}

func (n *node) change(changes ...change) {
	n.ops = append(n.ops, changes)
	applyChanges(n.children, changes)
}

func applyChanges(to map[string]*node, changes []change) {
	for _, c := range changes {
		if c.node == nil {
			delete(to, c.name)
		} else {
			to[c.name] = c.node
		}
	}
}

// syncDir puts all of a directory's names on disk.
func (n *node) syncDir() {
	for _, op := range n.ops {
		applyChanges(n.diskChildren, op)
	}
	n.ops = nil
}

// persistDir puts each pending change on disk with some probability. A change
// that builds on one that was dropped is dropped too.
func (n *node) persistDir(rng *rand.Rand, probability float64) {
	droppedNames, droppedNodes := map[string]bool{}, map[*node]bool{}
	for _, op := range n.ops {
		keep := rng.Float64() < probability
		for _, c := range op {
			keep = keep && !droppedNames[c.name] && (c.node == nil || !droppedNodes[c.node])
		}
		if keep {
			applyChanges(n.diskChildren, op)
			continue
		}
		for _, c := range op {
			droppedNames[c.name] = true
			if c.node != nil {
				droppedNodes[c.node] = true
			}
		}
	}
	n.ops = nil
}

// afterPowerLoss returns what is left of a tree. Now and then everything that was
// pending is lost, or nothing, since those are the commonest real cases.
func (n *node) afterPowerLoss(rng *rand.Rand) *node {
	probability := []float64{0, 0.1, 0.5, 0.9, 1}[rng.IntN(5)]
	if n.children == nil {
		n.persist(rng, probability)
		return &node{data: slices.Clone(n.disk), disk: n.disk}
	}
	n.persistDir(rng, probability)
	left := newDir()
	names := make([]string, 0, len(n.diskChildren))
	for name := range n.diskChildren {
		names = append(names, name)
	}
	slices.Sort(names) // so that a seed always gives the same result
	for _, name := range names {
		child := n.diskChildren[name].afterPowerLoss(rng)
		left.children[name], left.diskChildren[name] = child, child
	}
	return left
}

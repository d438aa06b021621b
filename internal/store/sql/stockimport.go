package sql

import (
	"context"

	"millrace/internal/audit"
	"millrace/internal/inventory"
)

// lineKey names a line of an import.
type lineKey struct {
	tenantID, importID string
	line               int64
}

func keyOfLine(l *inventory.ImportLine) lineKey { return lineKey{l.TenantID, l.ImportID, l.Line} }

func skuOfLine(l *inventory.ImportLine) skuKey { return skuKey{l.TenantID, l.SKU} }

// Import applies lines. See inventory.Store.
func (s *Inventory) Import(ctx context.Context, lines []inventory.ImportLine) ([]inventory.ImportResult, error) {
	results := make([]inventory.ImportResult, len(lines))
	if len(lines) == 0 {
		return results, nil
	}
	err := transact(ctx, s.on, func(tx transaction) error {
		p := prepareIn(tx)
		defer p.close()
		if err := p.lock(ctx, lockLevels, skuKeys(lines, skuOfLine)); err != nil {
			return err
		}
		for i := 0; i < len(lines); {
			n := min(distinctRun(lines[i:], keyOfLine),
				distinctRun(lines[i:], skuOfLine))
			c := importChunk{lines: lines[i : i+n], results: results[i : i+n]}
			if err := c.apply(ctx, p); err != nil {
				return err
			}
			i += n
		}
		return nil
	})
	if err != nil {
		return nil, in("import stock", err)
	}
	return results, nil
}

// importChunk is lines that differ in number and in SKU.
type importChunk struct {
	lines   []inventory.ImportLine
	results []inventory.ImportResult

	applied, levels []any // arguments
	entries         []audit.Entry
}

func (c *importChunk) apply(ctx context.Context, p *prepared) error {
	before, err := c.repeated(ctx, p)
	if err != nil {
		return err
	}
	there, err := c.read(ctx, p)
	if err != nil {
		return err
	}
	for i := range c.lines {
		l := &c.lines[i]
		level, ok := there[skuKey{l.TenantID, l.SKU}]
		if !ok {
			level = inventory.Level{TenantID: l.TenantID, SKU: l.SKU}
		}
		if content, applied := before[keyOfLine(l)]; applied {
			c.results[i] = inventory.ImportResult{Level: level, Repeated: content == l.Content()}
			if !c.results[i].Repeated {
				c.results[i].Err = &inventory.ReusedLineError{ImportID: l.ImportID, Line: l.Line, Applied: content}
			}
			continue
		}
		if c.results[i], err = c.one(l, level); err != nil {
			return err
		}
	}
	claimed, err := p.exec(ctx, addImportLines, c.applied)
	if err != nil {
		return err
	}
	changed, err := p.exec(ctx, putLevels, c.levels)
	if err != nil {
		return err
	}
	if claimed != addImportLines.rows(c.applied) || changed != putLevels.rows(c.levels) {
		return errRaced
	}
	return p.insertAudit(ctx, c.entries)
}

// repeated returns what the lines said that were applied before under the same
// numbers.
func (c *importChunk) repeated(ctx context.Context, p *prepared) (map[lineKey]string, error) {
	args := make([]any, 0, 3*len(c.lines))
	for i := range c.lines {
		args = append(args, c.lines[i].TenantID, c.lines[i].ImportID, c.lines[i].Line)
	}
	found := map[lineKey]string{}
	return found, p.each(ctx, getImportLines, args, func(row interface{ Scan(...any) error }) error {
		var k lineKey
		var content string
		err := row.Scan(&k.tenantID, &k.importID, &k.line, &content)
		found[k] = content
		return err
	})
}

// read returns the levels that the lines are about.
func (c *importChunk) read(ctx context.Context, p *prepared) (map[skuKey]inventory.Level, error) {
	args := make([]any, 0, 2*len(c.lines))
	for i := range c.lines {
		args = append(args, c.lines[i].TenantID, c.lines[i].SKU)
	}
	there := make(map[skuKey]inventory.Level, len(c.lines))
	return there, p.each(ctx, getLevels, args, func(row interface{ Scan(...any) error }) error {
		l, err := scanLevel(row)
		there[skuKey{l.TenantID, l.SKU}] = l
		return err
	})
}

// one decides what becomes of a line that was not applied before, and adds what
// is to be written.
func (c *importChunk) one(l *inventory.ImportLine, before inventory.Level) (inventory.ImportResult, error) {
	after := before
	if after.OnHand = l.OnHand; l.IsDelta {
		after.OnHand = before.OnHand + l.Delta
	}
	if err := inventory.CheckOnHand(l.SKU, after.OnHand, before.Reserved); err != nil {
		return inventory.ImportResult{Level: before, Err: err}, nil
	}
	c.applied = append(c.applied, l.TenantID, l.ImportID, l.Line, l.Content(), nanos(l.Now))
	if before.Version > 0 && after.OnHand == before.OnHand {
		return inventory.ImportResult{Level: before}, nil
	}
	after.Version, after.UpdatedAt = before.Version+1, timeOf(nanos(l.Now))
	entry, err := inventory.ImportEntry(*l, before, after)
	if err != nil {
		return inventory.ImportResult{}, err
	}
	c.levels = levelArgs(c.levels, &after)
	c.entries = append(c.entries, entry)
	return inventory.ImportResult{Level: after}, nil
}

package app

import (
	"context"
	"errors"
	"log/slog"

	"millrace/internal/cli"
	"millrace/internal/config"
	"millrace/internal/store/postgres"
	"millrace/internal/store/sqlite"
)

// MigrateUp brings the database to the newest schema and returns what it applied.
func MigrateUp(ctx context.Context, cfg *config.Config) ([]cli.Migration, error) {
	if cfg.Store.Driver != "postgres" {
		return migrateFile(ctx, cfg)
	}
	o, err := postgresOptions(cfg, toolInstance, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	applied, err := postgres.Migrate(ctx, o)
	all := make([]cli.Migration, len(applied))
	for i, m := range applied {
		all[i] = cli.Migration(m)
	}
	return all, err
}

// migrateFile opens the embedded store, which migrates it.
func migrateFile(ctx context.Context, cfg *config.Config) (applied []cli.Migration, err error) {
	dir, err := openDataDir(cfg.Data)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	before, err := MigrateStatus(ctx, cfg)
	if err != nil {
		return nil, err
	}
	db, err := sqlite.Open(ctx, sqlite.Options{Dir: dir.path})
	if err != nil {
		return nil, err
	}
	if err := db.Close(); err != nil {
		return nil, err
	}
	after, err := MigrateStatus(ctx, cfg)
	if err != nil {
		return nil, err
	}
	for i, m := range after {
		if before[i].AppliedAt.IsZero() {
			applied = append(applied, m)
		}
	}
	return applied, nil
}

// MigrateStatus returns the migrations that this program knows.
func MigrateStatus(ctx context.Context, cfg *config.Config) ([]cli.Migration, error) {
	var all []cli.Migration
	if cfg.Store.Driver != "postgres" {
		found, err := sqlite.Status(ctx, cfg.Data)
		for _, m := range found {
			all = append(all, cli.Migration(m))
		}
		return all, err
	}
	o, err := postgresOptions(cfg, toolInstance, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	found, _, err := postgres.Status(ctx, o)
	for _, m := range found {
		all = append(all, cli.Migration(m))
	}
	return all, err
}

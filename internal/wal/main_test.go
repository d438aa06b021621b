package wal_test

import "context"

var ctx = context.Background()

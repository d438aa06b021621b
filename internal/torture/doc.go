// Package torture kills the real server with SIGKILL under load, again and
// again, at random moments: while it starts, while it recovers, while it serves.
//
// Events: several writers keep sending, with their own ids, and send again what
// was refused or left open, until all of it was acknowledged. In the end
// everything that was acknowledged must be stored, once and unchanged, the
// statistics must add up, and the log and the store must agree on where they
// stand.
//
// Orders: several buyers keep ordering, with their own keys, twice at times,
// cancel some of it, and pay with cards that work, are declined, or whose
// payment's answer is lost. In the end every acknowledged order must be there and
// have come to its end, stock and money must add up, and nobody was charged twice.
//
// Clusters: three instances on PostgreSQL with a replica, Redis and three NATS
// servers behind nginx, and two on RabbitMQ. Devices, buyers and a merchant keep at
// it through the front door while one service after the other is killed, paused, cut
// off, emptied or made slow, and so are instances. After each fault the service must
// recover by itself within a stated time, and in the end the same must hold as above.
//
// Reads: three instances answer products, places and orders from memory while two of
// them change one product at once, broadcasts are lost, Redis is flushed, silent or
// gone, and the database is away. No instance may go back in time, all must come to
// show the same, and what may be out of date must say so.
//
// TORTURE_KILLS sets the number of kills (default 5; 0 skips the test) and
// TORTURE_SEED the moments, so that a run can be repeated as far as a race with
// a process can be. TORTURE_CUTS (40) is how many connections to PostgreSQL are cut
// at a COMMIT, TORTURE_PAUSE (30) for how many seconds an instance is paused. A kill
// proves nothing about fsync, since the kernel keeps what was written: power loss is
// tested through the log's file seam.
package torture

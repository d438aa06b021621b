// Package load offers events and orders to a Millrace server, reads from it, and checks
// that the server kept what it promised. It talks public HTTP only and knows nothing of
// the server's packages, so it cannot cheat.
//
// # Offering
//
// Events is an open-loop generator. Each batch has an intended send time on a
// fixed schedule; latency is counted from that time, not from the moment a
// connection happened to be free, so a server that stalls is charged for every
// batch that had to wait (no coordinated omission). Work in flight is bounded by
// the number of connections: a batch that leaves late is counted as late, one
// that could not leave before the end is counted as missed, and none is dropped
// in silence. With a rate of zero the loop is closed: each connection sends its
// next batch when the last one is answered; the report says which it was.
//
// The generator usually shares a small machine with the server it measures, so
// it is built to cost little: batches are whole HTTP requests rendered once, and
// sending one is a copy, patching ids and timestamps in place, one write and one
// read. It reports its own CPU time per event.
//
// Orders offers orders in the same way, each a request with an idempotency key of
// its own. Before, it puts in products and stock. An order whose answer is lost is
// sent again with its key until its outcome is known, as a good client does; some
// may be sent twice on purpose, cancelled at once, or watched until they are paid.
// Order number k is drawn from the seed and k alone, so a run can be repeated
// whatever the timing.
//
// Reads asks for products, places and other documents in the same way. It looks at
// each answer as it comes: whether it is of what was asked for, whether a strong ETag
// always stands for the same bytes, and whether 304 comes only to who asked.
//
// # Checking
//
// An acked file (see AckedWriter for the format) lists each id the server
// accepted and, for each distinct payload, a hash. VerifyEvents walks the
// server's events over the time of the run and finds what is missing, doubled,
// changed or strange, and that the statistics add up with the rows.
//
// The acked file of orders lists each order with its key, lines and total, and the
// stock that was put in. VerifyOrders waits until the server has brought all orders
// to a rest, reads all orders, all stock and the payment sandbox's ledger, and
// checks them against each other and against the file. Stock and orders are read
// without a lock: a product whose version was the same before and after the orders
// were read did not change meanwhile, others are read again.
//
// # Concurrency and lifecycle
//
// Events, Orders, Reads and the two verifications own every goroutine they start and
// return when all of them have ended. Cancelling the context ends a run within
// about a second.
// Nothing in the package is global.
package load

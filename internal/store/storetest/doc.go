// Package storetest has the conformance suites of the stores: what an adapter
// must do to be Millrace's store of events, dead letters, keys, products, stock,
// orders and all else that has an interface in the domain.
//
// An adapter's test calls a suite with a factory, which gives a fresh and empty
// store to every test. A suite also asks for faults: a process that dies, a
// commit whose reply is lost, a disk that is full. An adapter that cannot bring
// one about says so, with the reason, in its harness; the suite then reports the
// test as skipped for that reason, and fails if there is none.
package storetest

package storetest

import "testing"

// Events runs the conformance suite of event.Store.
func Events(t *testing.T, fresh EventsFactory) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *EventsHarness)
	}{
		{"a new store is empty and knows no log", newStoreIsEmpty},
		{"every field comes back as it went in", fieldsComeBack},
		{"the position is compared and set", positionIsComparedAndSet},
		{"a log that should be known and is not is not begun anew", lostLogIsNotBegun},
		{"an empty batch moves the position", emptyBatchMovesPosition},
		{"logs do not disturb each other", logsAreIndependent},
		{"a batch that breaks the contract is refused and changes nothing", badBatchIsRefused},
		{"a row with data no database takes is ErrData and changes nothing", badDataIsRefused},
		{"a dry run answers like an append and changes nothing", dryRunChangesNothing},
		{"a cancelled append leaves nothing", cancelledAppendLeavesNothing},

		{"a lost reply shows in the position", lostReplyShowsInPosition},
		{"a store that is opened again has everything", reopenKeepsEverything},
		{"a crash loses nothing that was answered", crashLosesNothing},
		{"a full disk passes", fullDiskPasses},

		{"exact mode leaves out what a batch repeats", exactWithinBatch},
		{"exact mode leaves out what other batches stored", exactAcrossBatches},
		{"exact mode forgets after its days", exactAcrossDays},
		{"exact mode leaves out what a log that is behind repeats", exactBehind},

		{"exact rows are stored once in every mode", ownRowsAreStoredOnce},
		{"exact rows are known a week later, and after a crash", ownRowsAreKnownLater},
		{"exact rows and others do not stand in each other's way", ownRowsStandApart},
		{"exact rows are stored once though the reply was lost", ownRowsAfterALostReply},
		{"a dry run claims no exact row", dryRunClaimsNothing},
		{"amounts are summed by currency, repeats once", amountsAreSummed},
		{"amounts that sum to more than 64 bits stop there", amountsStopAtTheirBounds},

		{"queries filter by type and time", queriesFilter},
		{"queries agree with a model of random batches", queriesAgreeWithModel},
		{"paging back has no gaps or doubles while rows arrive", pagingWhileRowsArrive},
		{"a tail sees every event once, in order, across midnight", tailSeesEverything},
		{"a tail of several logs misses none and doubles none", tailOfSeveralLogs},
		{"large payloads take more pages, and all come", largePayloadsPage},
		{"a rare type is found among many events", rareTypeIsFound},
		{"a cursor that is not ours is refused", badCursorIsRefused},
		{"a query whose caller left ends", cancelledQueryEnds},

		{"an event is found by its id", eventByID},
		{"the newest event of an id wins", newestOfAnID},
		{"an event is known by its source as well as its id", hasByHash},
		{"no tenant sees another's events", tenantsAreIsolated},

		{"rollups add up", rollupsAddUp},
		{"stats respect their bounds", statsRespectBounds},
		{"stats have no more points than asked for", statsAreBounded},
		{"pages have no more bytes than asked for", pagesAreBoundedInBytes},
		{"recent hashes come oldest first", recentHashes},
		{"recent hashes stop when told", recentHashesStop},
		{"the newest time of receipt is known", lastReceived},

		{"retention removes whole days", retentionRemovesDays},
		{"retention keeps the positions of logs", retentionKeepsPositions},
		{"retention waits for readers", retentionWaitsForReaders},
		{"readers and an appender do not disturb each other", readersWhileAppending},
	} {
		t.Run(c.name, func(t *testing.T) { c.test(t, fresh(t)) })
	}
}

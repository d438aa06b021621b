package postgres

import "testing"

func TestAStoreThatIsOpenAnswers(t *testing.T) {
	db := openTest(t)
	if err := db.Ping(t.Context()); err != nil {
		t.Fatal(err)
	}
}

package postgres

import "testing"

func TestServersOfOldAreNotAskedWhatTheyCannot(t *testing.T) {
	for version, want := range map[string]int{"17.2": 17, "15.14 (Debian 15.14-0+deb12u1)": 15, "18beta1": 18, "": 0, "devel": 0} {
		if got := major(version); got != want {
			t.Errorf("%q is of %d, want %d", version, got, want)
		}
	}
}

func TestTheServerNoticesAClientThatIsGone(t *testing.T) {
	db := openTest(t)
	for setting, want := range map[string]string{"tcp_keepalives_idle": "5", "tcp_keepalives_interval": "2", "tcp_keepalives_count": "3", "tcp_user_timeout": "10000"} {
		var got string
		if err := db.hot.QueryRow(t.Context(), `SELECT current_setting($1)`, setting).Scan(&got); err != nil || got != want {
			t.Errorf("%s is %s, error %v; want %s", setting, got, err, want)
		}
	}
}

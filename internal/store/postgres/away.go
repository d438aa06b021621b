package postgres

// Unavailable says whether an error of Open, or of a call, means that the database
// cannot be reached or is starting or stopping, so that trying again may help.
func Unavailable(err error) bool { return unavailable(err) }

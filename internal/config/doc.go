// Package config is the one configuration of the program.
//
// One struct holds every value. Its field tags say what a key is called, what it
// means and what it may be, so that loading, validation, `millrace config show`
// and `millrace config reference` all come from the same place and cannot drift
// apart.
//
// Layers, each overriding the one before: the defaults, a YAML file, variables
// of the environment, command-line flags. A key that nothing knows is an error in
// every layer, because a misspelt limit that is silently ignored is worse than
// none. All problems are reported at once.
//
// A variable's name is the key's path in capitals: "MILLRACE_", then a double
// underscore for each dot and a single one before each further word. So
// http.maxConnections is MILLRACE_HTTP__MAX_CONNECTIONS, and
// hooks.github.secrets is MILLRACE_HOOKS__GITHUB__SECRETS.
//
// A Config is plain data: it is loaded once at start, never changed afterwards,
// and so is safe to read from everywhere.
package config

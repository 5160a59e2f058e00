package routing

import "testing"

func TestExtensionHarmless(t *testing.T) {
	for name, want := range map[string]bool{"uuid_generate_v4": true, "gen_salt": true, "dblink_exec": false, "f": false} {
		if got := extensionHarmless(name); got != want {
			t.Errorf("extensionHarmless(%q) = %t", name, got)
		}
		if known(name) {
			t.Errorf("%s is taken for a function of pg_catalog", name)
		}
	}
	for _, name := range []string{"nextval", "abs", "pg_start_backup", "uuidv7", "jsonb"} {
		if !known(name) {
			t.Errorf("%s is not known", name)
		}
	}
}

package documents

import (
	"os"
	"testing"

	"docportal/internal/testsession"
)

// roleVariable makes the test binary something else than the tests.
const roleVariable = "DOCPORTAL_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) == "client" {
		os.Exit(clientMain())
	}
	os.Exit(testsession.Run(m))
}

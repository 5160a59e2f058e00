package pgherdtest_test

import (
	"testing"
	"time"

	"github.com/pgherd/pgherd/pgherdtest"
)

func TestStart(t *testing.T) {
	began := time.Now()
	h := pgherdtest.Start(t, pgherdtest.Replicas(2))
	t.Log(time.Since(began), h.DSN())
}

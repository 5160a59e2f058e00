// Herd runs the herds of package pgherdtest in containers, for tests that know
// nothing of them:
//
//	go build -o /tmp/herd ./integration/cmd/herd
//	PGHERD_TEST_HERDS=/tmp/herd go test .
//
// It is started by the test, and ends with it.
package main

import (
	"context"
	"log"

	"github.com/pgherd/pgherd/integration/herds"
	"github.com/pgherd/pgherd/integration/herds/containers"
	"github.com/pgherd/pgherd/internal/herdrpc"
)

func main() {
	err := herdrpc.Serve(func(ctx context.Context, replicas int, settings map[string]string) (herdrpc.Herd, error) {
		h, err := containers.Open(ctx, herds.Options{Replicas: replicas, Settings: settings})
		if err != nil {
			return nil, err
		}
		return herd{h}, nil
	})
	if err != nil {
		log.Fatal(err)
	}
}

type herd struct{ *containers.Herd }

func (h herd) Machines() (machines []herdrpc.Machine) {
	for _, s := range h.Servers() {
		machines = append(machines, s)
	}
	return machines
}

func (h herd) Follow(ctx context.Context, server, primary int) error {
	servers := h.Servers()
	return servers[server].Follow(ctx, servers[primary])
}

//go:build linux

// Delay makes packets wait. It reads the NFQUEUE of the number that it is given,
// and lets each packet go on as many milliseconds after it came, in the order in
// which they came. Once it reads, it creates the file that it is given.
//
//	delay MILLISECONDS FILE
//
// It is for kernels with and without netem, which many leave out.
package main

import (
	"context"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/florianl/go-nfqueue/v2"
)

// capacity is how many packets may wait; more are lost.
const capacity = 1 << 14

type packet struct {
	id  uint32
	due time.Time
}

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		log.Fatal(err)
	}
}

func run(millis, ready string) error {
	n, err := strconv.ParseUint(millis, 10, 16)
	if err != nil {
		return err
	}
	delay := time.Duration(n) * time.Millisecond
	queue, err := nfqueue.Open(&nfqueue.Config{
		NfQueue:      uint16(n),
		MaxPacketLen: 64, // packets are not looked at
		MaxQueueLen:  capacity,
		Copymode:     nfqueue.NfQnlCopyPacket,
		Flags:        nfqueue.NfQaCfgFlagGSO, // large ones stay whole
	})
	if err != nil {
		return err
	}
	defer queue.Close()
	waiting := make(chan packet, capacity)
	err = queue.RegisterWithErrorFunc(context.Background(), func(a nfqueue.Attribute) int {
		waiting <- packet{*a.PacketID, time.Now().Add(delay)}
		return 0
	}, func(err error) int {
		log.Print(err)
		return 0
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(ready, nil, 0o644); err != nil {
		return err
	}
	for p := range waiting {
		time.Sleep(time.Until(p.due))
		if err := queue.SetVerdict(p.id, nfqueue.NfAccept); err != nil {
			return err
		}
	}
	return nil
}

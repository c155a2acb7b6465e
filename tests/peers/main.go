// The load that `confold bench` gives confold, given to etcd; and the table of both.
//
//	peers load ENDPOINT SECONDS     measures, prints one JSON object
//	peers table FOLDER              medians over etcd-*.json and confold-*.json
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const (
	children             = 1000
	valueBytes           = 256
	clientsPerConnection = 8
	putsInTransaction    = 100
)

// Part is what came of one load; the names are those of `confold bench --json`.
type Part struct {
	Part     string   `json:"part"`
	Measured Measured `json:"measured"`
}

type Measured struct {
	Rate  float64  `json:"rate"`
	P50us *float64 `json:"p50_us"`
	P99us *float64 `json:"p99_us"`
}

type Run struct {
	Parts []Part `json:"parts"`
}

func main() {
	log.SetFlags(0)
	switch {
	case len(os.Args) == 4 && os.Args[1] == "load":
		seconds, err := strconv.ParseFloat(os.Args[3], 64)
		check(err)
		load(os.Args[2], time.Duration(seconds*float64(time.Second)))
	case len(os.Args) == 3 && os.Args[1] == "table":
		table(os.Args[2])
	default:
		log.Fatal("peers load ENDPOINT SECONDS, or peers table FOLDER")
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}

func load(endpoint string, duration time.Duration) {
	value := strings.Repeat("x", valueBytes)
	put := func(ctx context.Context, client *clientv3.Client, turn uint64) error {
		_, err := client.Put(ctx, key(turn), value)
		return err
	}
	get := func(options ...clientv3.OpOption) operation {
		return func(ctx context.Context, client *clientv3.Client, turn uint64) error {
			answer, err := client.Get(ctx, key(turn), options...)
			if err == nil && len(answer.Kvs) != 1 {
				err = fmt.Errorf("%s is not there", key(turn))
			}
			return err
		}
	}
	transaction := func(ctx context.Context, client *clientv3.Client, turn uint64) error {
		var puts []clientv3.Op
		for index := uint64(0); index < putsInTransaction; index++ {
			puts = append(puts, clientv3.OpPut(name(index), value[:100]))
		}
		_, err := client.Txn(ctx).Then(puts...).Commit()
		return err
	}
	prepare(endpoint, value)
	var run Run
	add := func(part string, clients int, does operation) {
		run.Parts = append(run.Parts, Part{part, measure(endpoint, clients, duration, does)})
	}
	add("put, 1 client", 1, put)
	add("put, 64 clients", 64, put)
	add("get, 1 client", 1, get())
	add("get, 64 clients", 64, get())
	add("get serializable, 1 client", 1, get(clientv3.WithSerializable()))
	add("get serializable, 64 clients", 64, get(clientv3.WithSerializable()))
	add("transaction of 100 puts", 1, transaction)
	check(json.NewEncoder(os.Stdout).Encode(run))
}

type operation func(ctx context.Context, client *clientv3.Client, turn uint64) error

// The same walk over the children as in `confold bench`.
func key(turn uint64) string { return name((turn * 0x9e3779b97f4a7c15 >> 20) % children) }

func name(index uint64) string { return fmt.Sprintf("/items/item-%07d", index) }

func connect(endpoint string) *clientv3.Client {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{endpoint}, DialTimeout: 10 * time.Second})
	check(err)
	return client
}

func prepare(endpoint, value string) {
	client := connect(endpoint)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for first := uint64(0); first < children; first += putsInTransaction {
		var puts []clientv3.Op
		for index := first; index < first+putsInTransaction; index++ {
			puts = append(puts, clientv3.OpPut(name(index), value))
		}
		_, err := client.Txn(ctx).Then(puts...).Commit()
		check(err)
	}
}

// So many clients side by side, each one call after the other.
func measure(endpoint string, clients int, duration time.Duration, does operation) Measured {
	connections := make([]*clientv3.Client, (clients+clientsPerConnection-1)/clientsPerConnection)
	ctx := context.Background()
	for index := range connections {
		connections[index] = connect(endpoint)
		defer connections[index].Close()
		_, err := connections[index].Get(ctx, name(0))
		check(err)
	}
	times := make([][]time.Duration, clients)
	var all sync.WaitGroup
	began := time.Now()
	for client := range clients {
		all.Add(1)
		go func() {
			defer all.Done()
			for turn := uint64(0); time.Since(began) < duration; turn++ {
				asked := time.Now()
				check(does(ctx, connections[client%len(connections)], turn*uint64(clients)+uint64(client)))
				times[client] = append(times[client], time.Since(asked))
			}
		}()
	}
	all.Wait()
	took := time.Since(began)
	var sorted []float64
	for _, times := range times {
		for _, time := range times {
			sorted = append(sorted, float64(time.Nanoseconds())/1000)
		}
	}
	sort.Float64s(sorted)
	at := func(share float64) *float64 { return &sorted[int(share*float64(len(sorted)-1))] }
	return Measured{Rate: float64(len(sorted)) / took.Seconds(), P50us: at(0.5), P99us: at(0.99)}
}

// What stands beside what.
var rows = []struct{ what, limit, peer, ours string }{
	{"put, 1 client", "limit: append and fdatasync", "put, 1 client", "commits, 1 client"},
	{"put, 64 clients", "limit: gRPC echo, 64 clients", "put, 64 clients", "commits, 64 clients"},
	{"get, 1 client", "limit: gRPC echo, 1 client", "get, 1 client", "reads, 1 client"},
	{"get, 64 clients", "limit: gRPC echo, 64 clients", "get, 64 clients", "reads, 64 clients"},
	{"get, 1 client, serializable at etcd", "limit: gRPC echo, 1 client", "get serializable, 1 client", "reads, 1 client"},
	{"get, 64 clients, serializable at etcd", "limit: gRPC echo, 64 clients", "get serializable, 64 clients", "reads, 64 clients"},
	{"100 puts at once, 1 client", "limit: append and fdatasync", "transaction of 100 puts", "commits of 100 puts"},
}

func table(folder string) {
	etcd, rounds := medians(folder, "etcd-*.json")
	confold, others := medians(folder, "confold-*.json")
	if rounds == 0 || rounds != others {
		log.Fatalf("%d runs of etcd and %d of confold in %s: the same number of both is needed", rounds, others, folder)
	}
	fmt.Printf("medians of %d interleaved runs; rates per second, p50 in microseconds\n\n", rounds)
	writer := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(writer, "WHAT\tLIMIT\tETCD\tP50\tCONFOLD\tP50\tOF LIMIT\tTO ETCD")
	for _, row := range rows {
		limit, peer, ours := find(confold, row.limit), find(etcd, row.peer), find(confold, row.ours)
		fmt.Fprintf(writer, "%s\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%.2f\t%.2f\n", row.what, limit.Rate, peer.Rate, *peer.P50us,
			ours.Rate, *ours.P50us, ours.Rate/limit.Rate, ours.Rate/peer.Rate)
	}
	check(writer.Flush())
}

func find(parts map[string]Measured, name string) Measured {
	part, ok := parts[name]
	if !ok {
		log.Fatalf("no run has the part %q", name)
	}
	return part
}

// Every part's median rate and median times, and how many runs there are.
func medians(folder, pattern string) (map[string]Measured, int) {
	files, err := filepath.Glob(filepath.Join(folder, pattern))
	check(err)
	runs := map[string][]Measured{}
	for _, file := range files {
		text, err := os.ReadFile(file)
		check(err)
		var run Run
		if err := json.Unmarshal(text, &run); err != nil {
			log.Fatalf("%s: %v", file, err)
		}
		for _, part := range run.Parts {
			runs[part.Part] = append(runs[part.Part], part.Measured)
		}
	}
	found := map[string]Measured{}
	for part, runs := range runs {
		zero := 0.0
		middle := func(of func(Measured) *float64) *float64 {
			var values []float64
			for _, run := range runs {
				if value := of(run); value != nil {
					values = append(values, *value)
				}
			}
			if len(values) == 0 {
				return &zero
			}
			sort.Float64s(values)
			return &values[len(values)/2]
		}
		found[part] = Measured{
			Rate:  *middle(func(run Measured) *float64 { return &run.Rate }),
			P50us: middle(func(run Measured) *float64 { return run.P50us }),
			P99us: middle(func(run Measured) *float64 { return run.P99us }),
		}
	}
	return found, len(files)
}

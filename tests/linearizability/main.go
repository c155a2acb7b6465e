// Judges histories recorded by tests/it/cluster.rs: can all operations of each key be put in one order that agrees with what every
// client was told, and in which none is moved out of the time between its call and its return?
//
// One operation a line:
//
//	{"client":1,"key":"k3","op":"get","value":7,"call":12,"return":34}
//	{"client":2,"key":"k3","op":"put","value":8,"call":20,"return":40}
//	{"client":0,"key":"k3","op":"cas","expect":7,"value":9,"ok":false,"call":30,"return":50}
//	{"client":3,"key":"k3","op":"put","value":10,"call":33}
//
// Values are numbers, 0 is absence, which is how every key begins. Times are nanoseconds of one clock. Without a return the end is
// not known: the operation may take effect at any time after its call, or never; it is then as if it returned at infinity.
//
// Exit status: 0 all are linearizable, 1 one is not, 2 a history cannot be read or was not decided in time.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"strings"
	"time"

	"github.com/anishathalye/porcupine"
)

const patience = 2 * time.Minute

type record struct {
	Client int    `json:"client"`
	Key    string `json:"key"`
	Op     string `json:"op"`
	Expect uint64 `json:"expect"`
	Value  uint64 `json:"value"`
	Ok     bool   `json:"ok"`
	Call   int64  `json:"call"`
	Return *int64 `json:"return"`
}

// What a client was told: what it read, or whether its compare-and-set took effect.
type told struct {
	unknown bool
	ok      bool
	value   uint64
}

var register = porcupine.Model{
	Partition: func(history []porcupine.Operation) [][]porcupine.Operation {
		var keys []string
		byKey := map[string][]porcupine.Operation{}
		for _, operation := range history {
			key := operation.Input.(record).Key
			if _, seen := byKey[key]; !seen {
				keys = append(keys, key)
			}
			byKey[key] = append(byKey[key], operation)
		}
		var parts [][]porcupine.Operation
		for _, key := range keys {
			parts = append(parts, byKey[key])
		}
		return parts
	},
	Init: func() any { return uint64(0) },
	Step: func(state, input, output any) (bool, any) {
		stands, asked, told := state.(uint64), input.(record), output.(told)
		switch {
		case asked.Op == "put":
			return true, asked.Value
		case asked.Op == "get":
			return told.value == stands, stands
		case stands == asked.Expect && (told.ok || told.unknown):
			return true, asked.Value
		default:
			return stands != asked.Expect && !told.ok || told.unknown, stands
		}
	},
	DescribeOperation: func(input, output any) string {
		asked, told := input.(record), output.(told)
		switch {
		case told.unknown:
			return fmt.Sprintf("%s(%s, %d) ?", asked.Op, asked.Key, asked.Value)
		case asked.Op == "get":
			return fmt.Sprintf("get(%s) = %d", asked.Key, told.value)
		case asked.Op == "cas":
			return fmt.Sprintf("cas(%s, %d, %d) %t", asked.Key, asked.Expect, asked.Value, told.ok)
		default:
			return fmt.Sprintf("put(%s, %d)", asked.Key, asked.Value)
		}
	},
}

func read(path string) ([]porcupine.Operation, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var history []porcupine.Operation
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		var line record
		decoder := json.NewDecoder(strings.NewReader(lines.Text()))
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&line); err != nil {
			return nil, fmt.Errorf("line %d: %w", len(history)+1, err)
		}
		known := map[string]bool{"get": true, "put": true, "cas": true}
		if !known[line.Op] || line.Op == "get" && line.Return == nil || line.Return != nil && *line.Return < line.Call {
			return nil, fmt.Errorf("line %d is no operation: %s", len(history)+1, lines.Text())
		}
		end, heard := int64(math.MaxInt64), told{unknown: true}
		if line.Return != nil {
			end, heard = *line.Return, told{ok: line.Ok, value: line.Value}
		}
		history = append(history, porcupine.Operation{
			ClientId: line.Client, Input: line, Call: line.Call, Output: heard, Return: end,
		})
	}
	return history, lines.Err()
}

func judge(path string) int {
	history, err := read(path)
	if err == nil && len(history) == 0 {
		err = fmt.Errorf("no operations")
	}
	if err != nil {
		fmt.Printf("%s: %v\n", path, err)
		return 2
	}
	began := time.Now()
	verdict, info := porcupine.CheckOperationsVerbose(register, history, patience)
	took := time.Since(began).Round(time.Millisecond)
	switch verdict {
	case porcupine.Ok:
		fmt.Printf("%s: %d operations are linearizable, judged in %s\n", path, len(history), took)
		return 0
	case porcupine.Illegal:
		picture := path + ".html"
		if err := porcupine.VisualizePath(register, info, picture); err != nil {
			picture = err.Error()
		}
		fmt.Printf("%s: %d operations are NOT LINEARIZABLE; see %s\n", path, len(history), picture)
		return 1
	default:
		fmt.Printf("%s: %d operations, not decided within %s\n", path, len(history), patience)
		return 2
	}
}

func main() {
	if len(os.Args) < 2 {
		fmt.Println("usage: linearizability HISTORY...")
		os.Exit(2)
	}
	worst := 0
	for _, path := range os.Args[1:] {
		worst = max(worst, judge(path))
	}
	os.Exit(worst)
}

// Checks whether a history of revocations and requests is linearizable: `checker FILE`.
//
// The search for a linearization is Porcupine's. A session on a node is a register that holds
// whether the session is revoked. A revocation sets it at one moment between the call and the
// moment at which it has settled, on each node at another one. A request reads it: it is served
// before that moment and rejected after it. So no request is served that begins after the
// revocation has settled, none is rejected before the revocation is called, and a node that has
// rejected a session does not serve it again.
//
// The exit status is 0 if the history is linearizable, 1 if it is not, and 2 if it cannot be
// checked.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"time"

	"github.com/anishathalye/porcupine"
)

// For the whole file. Few operations on one register are concurrent, so the search is short.
const timeout = time.Minute

// One line of the file. Times are nanoseconds of one monotonic clock.
type operation struct {
	Kind    string `json:"kind"`
	Node    int    `json:"node"`
	Session int    `json:"session"`
	Call    int64  `json:"call"`
	// Missing if the revocation has not settled: it may take effect at any later time.
	Return *int64 `json:"return"`
	// Only for a request.
	Served *bool `json:"served"`
}

type register struct {
	session, node int
}

var model = porcupine.Model{
	Init: func() any { return false },
	Step: func(state, input, _ any) (bool, any) {
		operation := input.(operation)
		if operation.Kind == "revoke" {
			return true, true
		}
		return *operation.Served != state.(bool), state
	},
}

func read(file io.Reader) ([]operation, error) {
	var operations []operation
	decoder := json.NewDecoder(bufio.NewReader(file))
	decoder.DisallowUnknownFields()
	for {
		var next operation
		err := decoder.Decode(&next)
		if errors.Is(err, io.EOF) {
			return operations, nil
		}
		if err == nil {
			err = next.validate()
		}
		if err != nil {
			return nil, fmt.Errorf("operation %d: %w", len(operations)+1, err)
		}
		operations = append(operations, next)
	}
}

func (o operation) validate() error {
	switch {
	case o.Return != nil && *o.Return < o.Call:
		return errors.New("returns before it is called")
	case o.Kind == "revoke" && o.Served == nil:
		return nil
	case o.Kind == "request" && o.Served != nil && o.Return != nil:
		return nil
	default:
		return fmt.Errorf("neither a revocation nor a complete request: %q", o.Kind)
	}
}

func (o operation) interval() porcupine.Operation {
	end := int64(math.MaxInt64)
	if o.Return != nil {
		end = *o.Return
	}
	return porcupine.Operation{ClientId: o.Node, Input: o, Call: o.Call, Return: end}
}

// Sorts the requests into registers. A revocation belongs to those of all nodes.
func split(operations []operation) map[register][]porcupine.Operation {
	registers := make(map[register][]porcupine.Operation)
	revocations := make(map[int][]porcupine.Operation)
	for _, o := range operations {
		if o.Kind == "revoke" {
			revocations[o.Session] = append(revocations[o.Session], o.interval())
		} else {
			of := register{o.Session, o.Node}
			registers[of] = append(registers[of], o.interval())
		}
	}
	for of := range registers {
		registers[of] = append(registers[of], revocations[of.session]...)
	}
	return registers
}

func (o operation) describe() string {
	what := fmt.Sprintf("revocation on node %d", o.Node)
	if o.Kind == "request" {
		what = "request, rejected"
		if *o.Served {
			what = "request, served"
		}
	}
	if o.Return == nil {
		return fmt.Sprintf("%12d ..                %s", o.Call, what)
	}
	return fmt.Sprintf("%12d .. %12d  %s", o.Call, *o.Return, what)
}

func run(path string) (int, error) {
	file, err := os.Open(path)
	if err != nil {
		return 2, err
	}
	defer file.Close()
	operations, err := read(file)
	if err != nil {
		return 2, err
	}
	registers := split(operations)
	deadline := time.Now().Add(timeout)
	for of, history := range registers {
		left := time.Until(deadline)
		if left <= 0 {
			return 2, fmt.Errorf("not finished within %v", timeout)
		}
		switch porcupine.CheckOperationsTimeout(model, history, left) {
		case porcupine.Ok:
		case porcupine.Unknown:
			return 2, fmt.Errorf("not finished within %v", timeout)
		case porcupine.Illegal:
			fmt.Printf("not linearizable: session %d on node %d\n", of.session, of.node)
			slices.SortFunc(history, func(a, b porcupine.Operation) int {
				return cmp.Compare(a.Call, b.Call)
			})
			for _, o := range history {
				fmt.Println(o.Input.(operation).describe())
			}
			return 1, nil
		}
	}
	fmt.Printf("linearizable: %d operations, %d sessions on nodes\n", len(operations), len(registers))
	return 0, nil
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: checker FILE")
		os.Exit(2)
	}
	status, err := run(os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}

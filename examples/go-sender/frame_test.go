package main

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"testing"
)

// The bytes that every sender and reader of the project is measured by.
const goldenFrames = "../../tests/golden/frames.json"

type goldenFrame struct {
	Name        string
	Hex         string
	Canonical   bool
	Measurement *struct {
		TaskID        string `json:"task_id"`
		WebsdrID      int64  `json:"websdr_id"`
		Samples       string
		Datatype      string
		TimestampNs   int64   `json:"timestamp_ns"`
		FrequencyMHz  float64 `json:"frequency_mhz"`
		SampleRateKHz float64 `json:"sample_rate_khz"`
		Node          string
		Epoch         int64
		Seq           int64
		Chunk         *int64
		SampleIndex   *int64 `json:"sample_index"`
	}
}

func readGolden(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

func TestCanonicalFramesAreReproducedToTheByte(t *testing.T) {
	var golden struct{ Frames []goldenFrame }
	readGolden(t, goldenFrames, &golden)
	reproduced := map[string]bool{}
	for _, one := range golden.Frames {
		if !one.Canonical {
			continue
		}
		iq, err := hex.DecodeString(one.Measurement.Samples)
		if err != nil {
			t.Fatal(err)
		}
		given := one.Measurement
		frame := Frame{
			TaskID: given.TaskID, WebsdrID: given.WebsdrID, FrequencyMHz: given.FrequencyMHz,
			SampleRateKHz: given.SampleRateKHz, IQ: iq, TimestampNs: given.TimestampNs, Node: given.Node,
			Epoch: given.Epoch, Seq: given.Seq, Chunk: given.Chunk, SampleIndex: given.SampleIndex,
		}
		if given.Datatype != "cf32_le" {
			frame.Datatype = given.Datatype
		}
		got, err := frame.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if hex.EncodeToString(got) != one.Hex {
			t.Errorf("%s:\n got %x\nwant %s", one.Name, got, one.Hex)
		}
		reproduced[one.Name] = true
	}
	if len(reproduced) < 4 || !reproduced["confirmed_chunk"] {
		t.Fatalf("only %v are canonical in %s", reproduced, goldenFrames)
	}
}

func TestTheSameFrameGivesTheSameBytes(t *testing.T) {
	capture := Capture{TaskID: "t", WebsdrID: 1, FrequencyHz: 77500, SampleRateHz: 12001.1321, T0Ns: 1, NSamples: 50}
	first, second := capture.Frame(3), capture.Frame(3)
	first.Node, second.Node = "n", "n"
	a, _ := first.Encode()
	for range 20 {
		b, err := second.Encode()
		if err != nil || string(a) != string(b) {
			t.Fatalf("%x\n%x (%v)", a, b, err)
		}
	}
}

func TestStampsAreExact(t *testing.T) {
	// t0 + round(n 1e9 / fs) from the float64 fs, as Python's round(Fraction(n) * 10**9 / Fraction(fs)) gives it.
	for _, one := range []struct {
		rate  float64
		first int64
		want  int64
	}{
		{12001.1321, 0, 0},
		{12001.1321, 12001, 999988993},
		{12001.1321, 1_000_000_000_000, 83325472269403646},
		{2e9, 1, 0}, // half a nanosecond goes to the even one
		{2e9, 3, 2},
		{3e9, 2, 1},
	} {
		const t0Ns = 1_790_000_000_123_456_789
		capture := Capture{SampleRateHz: one.rate, T0Ns: t0Ns}
		if got := capture.stampNs(one.first) - t0Ns; got != one.want {
			t.Errorf("%v samples at %v Hz: %d ns, not %d", one.first, one.rate, got, one.want)
		}
	}
}

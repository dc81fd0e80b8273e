package main

import (
	"encoding/binary"
	"math"
	"math/big"
)

// Capture is a made-up receiver: samples that anybody can compute again, cut into frames.
type Capture struct {
	TaskID       string
	WebsdrID     int64
	FrequencyHz  float64
	SampleRateHz float64
	T0Ns         int64 // stamp of sample 0
	NSamples     int64 // of a frame
}

// Frame is number i of the capture.
func (c *Capture) Frame(i int64) Frame {
	chunk, first := i, i*c.NSamples
	return Frame{
		TaskID: c.TaskID, WebsdrID: c.WebsdrID, FrequencyHz: c.FrequencyHz, SampleRateHz: c.SampleRateHz,
		IQ: samples(first, c.NSamples), TimestampNs: c.stampNs(first), Chunk: &chunk, SampleIndex: &first,
	}
}

// stampNs is t0 + round(n 1e9 / fs), half to even, in exact arithmetic: sums and floats would drift.
func (c *Capture) stampNs(n int64) int64 {
	exact := new(big.Rat).SetFloat64(c.SampleRateHz)
	exact.Quo(new(big.Rat).SetInt64(n), exact)
	exact.Mul(exact, big.NewRat(1e9, 1))
	// Twice the denominator, so that the half is an integer as well.
	whole, rest := new(big.Int).QuoRem(exact.Num(), exact.Denom(), new(big.Int))
	switch rest.Lsh(rest, 1).Cmp(exact.Denom()) {
	case 1:
		whole.Add(whole, big.NewInt(1))
	case 0:
		whole.Add(whole, big.NewInt(int64(whole.Bit(0))))
	}
	return c.T0Ns + whole.Int64()
}

// samples are complex64 with parts from -1 to 1, each a multiple of 2^-15 and so the same in every language:
// I = (40503 n mod 65536) / 32768 - 1, Q = (30011 n mod 65536) / 32768 - 1.
func samples(first, count int64) []byte {
	out := make([]byte, 0, 8*count)
	for n := first; n < first+count; n++ {
		for _, factor := range []int64{40503, 30011} {
			value := float32(n*factor%65536)/32768 - 1
			out = binary.LittleEndian.AppendUint32(out, math.Float32bits(value))
		}
	}
	return out
}

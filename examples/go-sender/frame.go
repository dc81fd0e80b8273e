package main

import (
	"bytes"

	"github.com/vmihailenco/msgpack/v5"
)

// Frame is one buffer of samples on its way: the keys of docs/wire-format.md that this sender uses. Of each pair of
// rates one is given, the other is 0, which no rate can be.
type Frame struct {
	TaskID        string
	WebsdrID      int64
	FrequencyMHz  float64
	FrequencyHz   float64
	SampleRateKHz float64
	SampleRateHz  float64
	IQ            []byte // I and Q in turn, little endian
	TimestampNs   int64  // since 1970, at which sample 0 passed the ADC
	Datatype      string // "" = cf32_le
	Node          string // "" = not numbered: no Node, Epoch, Seq
	Epoch         int64
	Seq           int64
	Chunk         *int64
	SampleIndex   *int64
}

type pair struct {
	key   string
	value any // string, int64, float64 or []byte
}

// Encode writes the frame as one msgpack map. The same frame gives the same bytes every time: the daemon takes other
// bytes under a number that it knows for a number used twice. A Go map would shuffle the keys, so there is none.
func (f *Frame) Encode() ([]byte, error) {
	pairs := f.pairs()
	var out bytes.Buffer
	out.Grow(len(f.IQ) + 1024)
	encoder := msgpack.NewEncoder(&out)
	if err := encoder.EncodeMapLen(len(pairs)); err != nil {
		return nil, err
	}
	for _, one := range pairs {
		if err := encoder.EncodeString(one.key); err != nil {
			return nil, err
		}
		if err := encodeValue(encoder, one.value); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), nil
}

// pairs lists what is said of the frame, in the order of the table of keys.
func (f *Frame) pairs() []pair {
	pairs := []pair{{"task_id", f.TaskID}, {"websdr_id", f.WebsdrID}}
	for _, rate := range []struct {
		key   string
		value float64
	}{
		{"frequency_mhz", f.FrequencyMHz}, {"frequency_hz", f.FrequencyHz},
		{"sample_rate_khz", f.SampleRateKHz}, {"sample_rate_hz", f.SampleRateHz},
	} {
		if rate.value != 0 {
			pairs = append(pairs, pair{rate.key, rate.value})
		}
	}
	pairs = append(pairs, pair{"iq_data", f.IQ}, pair{"timestamp_ns", f.TimestampNs})
	if f.Datatype != "" {
		pairs = append(pairs, pair{"datatype", f.Datatype})
	}
	if f.Node != "" {
		pairs = append(pairs, pair{"node", f.Node}, pair{"epoch", f.Epoch}, pair{"seq", f.Seq})
	}
	if f.Chunk != nil {
		pairs = append(pairs, pair{"chunk", *f.Chunk})
	}
	if f.SampleIndex != nil {
		pairs = append(pairs, pair{"sample_index", *f.SampleIndex})
	}
	return append(pairs, pair{"v", int64(1)})
}

// encodeValue writes an int in its shortest form; Encode(any) would write an int64 in nine bytes, which is as valid.
func encodeValue(encoder *msgpack.Encoder, value any) error {
	if number, ok := value.(int64); ok {
		return encoder.EncodeInt(number)
	}
	return encoder.Encode(value)
}

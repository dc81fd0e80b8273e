package main

import (
	"errors"
	"strings"
	"testing"
)

const goldenQueries = "../../tests/golden/query.json"

// goldenConfirm are request and reply as docs/confirmation.md shows them.
func goldenConfirm(t *testing.T) (request, reply string) {
	t.Helper()
	var golden struct {
		Cases []struct {
			Name           string
			Request, Reply struct{ JSON string }
		}
	}
	readGolden(t, goldenQueries, &golden)
	for _, one := range golden.Cases {
		if one.Name == "confirm" {
			return one.Request.JSON, one.Reply.JSON
		}
	}
	t.Fatalf("no case `confirm` in %s", goldenQueries)
	return "", ""
}

func TestTheRequestIsTheGoldenOne(t *testing.T) {
	want, _ := goldenConfirm(t)
	got, err := encodeRequest(8, "kiwi-graz", 4503599627370495)
	if err != nil || string(got) != want {
		t.Fatalf("got  %s (%v)\nwant %s", got, err, want)
	}
}

func TestTheGoldenReplySettlesWhatThePageSays(t *testing.T) {
	_, message := goldenConfirm(t)
	answer, err := decodeReply(8, []byte(message))
	if err != nil {
		t.Fatal(err)
	}
	if answer.CreditBytes != 52613349376 || answer.MaxFrameBytes != 64<<20 || answer.Boot != "0dd1d0536169a84d" {
		t.Fatalf("%+v", answer)
	}
	ledger := filled(45)
	ledger.boot = answer.Boot
	verdict := ledger.Settle(answer, 0)
	if len(verdict.Rejected) != 1 || verdict.Rejected[0] != (Rejection{17, "payload"}) || verdict.NewEpoch {
		t.Fatalf("%+v", verdict)
	}
	expect(t, numbers(ledger), 41, 44)
	// 42 and 43 have overtaken 41; 44 is only under way.
	expect(t, writeAll(ledger, 0), 41)
}

func TestWhatIsNoAnswerIsAnError(t *testing.T) {
	_, message := goldenConfirm(t)
	for what, broken := range map[string]string{
		"another id":    strings.Replace(message, `"id":8`, `"id":7`, 1),
		"a missing key": strings.Replace(message, `"boot":`, `"boots":`, 1),
		"half of it":    message[:len(message)/2],
		"another type":  strings.Replace(message, `"accepted_upto":41`, `"accepted_upto":"41"`, 1),
	} {
		var refused *RefusedError
		if _, err := decodeReply(8, []byte(broken)); err == nil || errors.As(err, &refused) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestARefusalIsToldAndATemporaryOneIsNot(t *testing.T) {
	const message = `{"v":1,"id":1,"ok":false,"error":{"code":"%","message":"m","retryable":?,"details":{}}}`
	for retryable, final := range map[string]bool{"true": false, "false": true} {
		text := strings.NewReplacer("%", "busy", "?", retryable).Replace(message)
		_, err := decodeReply(1, []byte(text))
		var refused *RefusedError
		if err == nil || errors.As(err, &refused) != final {
			t.Errorf("retryable %s: %v", retryable, err)
		}
	}
}

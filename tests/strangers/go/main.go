// The part of run.py that the AWS SDK for Go v2 has.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/marketplacemetering"
	"github.com/aws/aws-sdk-go-v2/service/marketplacemetering/types"
	"github.com/aws/smithy-go"
)

type call struct {
	Operation string          `json:"operation"`
	Request   json.RawMessage `json:"request"`
	Region    string          `json:"region"`
}

type said map[string]any

// timed writes times as Go reads them.
func timed(value any) any {
	switch known := value.(type) {
	case []any:
		for index, part := range known {
			known[index] = timed(part)
		}
	case map[string]any:
		for name, part := range known {
			if seconds, ok := part.(json.Number); ok && name == "Timestamp" {
				float, _ := seconds.Float64()
				known[name] = time.UnixMicro(int64(float * 1e6)).UTC()
			} else {
				known[name] = timed(part)
			}
		}
	}
	return value
}

// read fills an input, and says whether the SDK knows all its members.
func read(request json.RawMessage, into any) error {
	var members any
	numbers := json.NewDecoder(bytes.NewReader(request))
	numbers.UseNumber()
	if err := numbers.Decode(&members); err != nil {
		return err
	}
	written, err := json.Marshal(timed(members))
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(written))
	decoder.DisallowUnknownFields()
	return decoder.Decode(into)
}

func send[I, O any](made func(context.Context, *I, ...func(*marketplacemetering.Options)) (*O, error), request json.RawMessage) (any, error) {
	input := new(I)
	if err := read(request, input); err != nil {
		return nil, err
	}
	return made(context.Background(), input)
}

func answer(client *marketplacemetering.Client, made call) said {
	var reply any
	var err error
	switch made.Operation {
	case "BatchMeterUsage":
		reply, err = send(client.BatchMeterUsage, made.Request)
	case "MeterUsage":
		reply, err = send(client.MeterUsage, made.Request)
	case "RegisterUsage":
		reply, err = send(client.RegisterUsage, made.Request)
	default:
		reply, err = send(client.ResolveCustomer, made.Request)
	}
	var api smithy.APIError
	var response *awshttp.ResponseError
	switch {
	case err == nil:
		return said{"reply": reply, "status": 200}
	case strings.Contains(err.Error(), "unknown field"):
		return said{"cannot": "a member that this SDK does not know"}
	case errors.As(err, &api):
		_, generic := api.(*smithy.GenericAPIError)
		refused := said{"code": api.ErrorCode(), "modelled": !generic}
		if errors.As(err, &response) {
			refused["status"] = response.HTTPStatusCode()
		}
		return refused
	}
	return said{"code": err.Error()}
}

func main() {
	out := json.NewEncoder(os.Stdout)
	_, accounts := reflect.TypeOf(types.UsageRecord{}).FieldByName("CustomerAWSAccountId")
	_ = out.Encode(said{"version": "Go v2 " + aws.SDKVersion, "legacy": !accounts})
	clients := map[string]*marketplacemetering.Client{}
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var made call
		if err := json.Unmarshal(line, &made); err != nil {
			panic(err)
		}
		if clients[made.Region] == nil {
			settings, err := config.LoadDefaultConfig(context.Background(), config.WithRegion(made.Region))
			if err != nil {
				panic(err)
			}
			clients[made.Region] = marketplacemetering.NewFromConfig(settings, endpoint)
		}
		_ = out.Encode(answer(clients[made.Region], made))
	}
}

// endpoint brings an SDK here that does not read the environment, which is one before November 2023.
func endpoint(options *marketplacemetering.Options) {
	if _, reads := reflect.TypeOf(*options).FieldByName("BaseEndpoint"); !reads {
		url := os.Getenv("AWS_ENDPOINT_URL_MARKETPLACE_METERING")
		marketplacemetering.WithEndpointResolver(marketplacemetering.EndpointResolverFromURL(url))(options)
	}
}

package connectivity_test

import (
	"millrace/configs"
	"millrace/protocols"
)

// noDriver takes every device.
type noDriver struct{}

func (noDriver) Check(*protocols.Device) []*protocols.FieldError { return nil }
func (noDriver) BusKey(d *protocols.Device) string               { return d.ID }

func parse(text string) *configs.Config {
	c, err := configs.Parse("millrace.yaml", []byte(text), ".", map[string]configs.Checker{"none": noDriver{}})
	if err != nil {
		panic(err)
	}
	return c
}

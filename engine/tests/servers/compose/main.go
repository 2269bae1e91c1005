// Reads a compose file as `docker compose config` does, with the library that it uses, and prints the
// names of its services. Needs neither Docker nor the network.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	files := os.Args[1:2]
	options, err := cli.NewProjectOptions(files, cli.WithName("vigie"), cli.WithEnv(os.Args[2:]))
	if err == nil {
		var project, loaded = options.LoadProject(context.Background())
		if err = loaded; err == nil {
			fmt.Println(project.ServiceNames())
			return
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// Reads a compose file as `docker compose config` does, with the library that it uses, and prints the
// names of its services. What it mounts must be there, and Grafana must find in its provisioning what
// it needs to show the dashboards without a click. Needs neither Docker nor the network.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"go.yaml.in/yaml/v3"
)

// What of Grafana's provisioning is used here; a key that is not in it is refused.
// https://grafana.com/docs/grafana/latest/administration/provisioning/
type datasources struct {
	APIVersion  int `yaml:"apiVersion"`
	Datasources []struct {
		Name, Type, UID, Access, URL string
		IsDefault                    bool `yaml:"isDefault"`
		Editable                     bool
		JSONData                     struct {
			TimeInterval string `yaml:"timeInterval"`
		} `yaml:"jsonData"`
	}
}

type providers struct {
	APIVersion int `yaml:"apiVersion"`
	Providers  []struct {
		Name, Folder, Type    string
		AllowUIUpdates        bool `yaml:"allowUiUpdates"`
		UpdateIntervalSeconds int  `yaml:"updateIntervalSeconds"`
		Options               struct{ Path string }
	}
}

// What of a dashboard says which data source it wants at first.
type dashboard struct {
	UID        string
	Templating struct {
		List []struct {
			Type string
			// Text, or an object, by the type.
			Query   json.RawMessage
			Current struct{ Value json.RawMessage }
		}
	}
}

func main() {
	if err := check(os.Args[1], os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func check(file string, environment []string) error {
	options, err := cli.NewProjectOptions([]string{file}, cli.WithName("vigie"), cli.WithEnv(environment))
	if err != nil {
		return err
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		return err
	}
	fmt.Println(project.ServiceNames())
	for name, service := range project.Services {
		for _, mount := range service.Volumes {
			if mount.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(mount.Source); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	shown, err := provisioned(project)
	if err == nil {
		fmt.Printf("Grafana finds %d dashboards and their data source\n", shown)
	}
	return err
}

// How many dashboards Grafana finds.
func provisioned(project *types.Project) (int, error) {
	grafana, err := project.GetService("grafana")
	if err != nil {
		return 0, err
	}
	folder, err := mounted(grafana, "/etc/grafana/provisioning")
	if err != nil {
		return 0, err
	}
	var sources datasources
	if err := read(grafana, filepath.Join(folder, "datasources"), &sources); err != nil {
		return 0, err
	}
	if sources.APIVersion != 1 || len(sources.Datasources) != 1 {
		return 0, fmt.Errorf("one data source in version 1, not %+v", sources)
	}
	source := sources.Datasources[0]
	at, err := url.Parse(source.URL)
	if err != nil {
		return 0, err
	}
	if _, err := project.GetService(at.Hostname()); err != nil || at.Scheme != "http" {
		return 0, fmt.Errorf("the data source is at %q, which is no service", source.URL)
	}
	if source.Name == "" || source.Type != "prometheus" || source.Access != "proxy" || !source.IsDefault {
		return 0, fmt.Errorf("data source: %+v", source)
	}

	var boards providers
	if err := read(grafana, filepath.Join(folder, "dashboards"), &boards); err != nil {
		return 0, err
	}
	if boards.APIVersion != 1 || len(boards.Providers) != 1 {
		return 0, fmt.Errorf("one provider in version 1, not %+v", boards)
	}
	provider := boards.Providers[0]
	if provider.Name == "" || provider.Type != "file" {
		return 0, fmt.Errorf("provider: %+v", provider)
	}
	place, err := mounted(grafana, provider.Options.Path)
	if err != nil {
		return 0, err
	}
	files, err := filepath.Glob(filepath.Join(place, "vigie-*.json"))
	if err != nil || len(files) == 0 {
		return 0, fmt.Errorf("no dashboards in %s", place)
	}
	for _, file := range files {
		if err := wants(file, source.Type, source.UID); err != nil {
			return 0, fmt.Errorf("%s: %w", file, err)
		}
	}
	return len(files), nil
}

// What a container sees at a place.
func mounted(service types.ServiceConfig, target string) (string, error) {
	for _, mount := range service.Volumes {
		if mount.Target == target && mount.Type == types.VolumeTypeBind {
			return mount.Source, nil
		}
	}
	return "", fmt.Errorf("%s mounts nothing at %q", service.Name, target)
}

// The one YAML file in a folder, with the service's environment in place of variables.
func read(service types.ServiceConfig, folder string, into any) error {
	files, err := filepath.Glob(filepath.Join(folder, "*.yml"))
	if err != nil || len(files) != 1 {
		return fmt.Errorf("one file in %s, not %v", folder, files)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		return err
	}
	var unset []string
	filled := os.Expand(string(text), func(name string) string {
		value := service.Environment[name]
		if value == nil {
			unset = append(unset, name)
			return ""
		}
		return *value
	})
	if len(unset) > 0 {
		return fmt.Errorf("%s: %s has no %s", files[0], service.Name, strings.Join(unset, ", "))
	}
	decoder := yaml.NewDecoder(bytes.NewReader([]byte(filled)))
	decoder.KnownFields(true)
	if err := decoder.Decode(into); err != nil {
		return fmt.Errorf("%s: %w", files[0], err)
	}
	return nil
}

// Whether a dashboard asks that data source at first.
func wants(file, kind, uid string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var board dashboard
	if err := json.Unmarshal(text, &board); err != nil {
		return err
	}
	for _, variable := range board.Templating.List {
		if variable.Type != "datasource" {
			continue
		}
		asked, first := string(variable.Query), string(variable.Current.Value)
		if asked != fmt.Sprintf("%q", kind) || first != fmt.Sprintf("%q", uid) {
			return fmt.Errorf("wants %s %s, provisioned is %s %q", asked, first, kind, uid)
		}
		return nil
	}
	return errors.New("no variable for the data source")
}

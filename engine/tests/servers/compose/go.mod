module vigie/compose

go 1.24.0

require github.com/compose-spec/compose-go/v2 v2.9.1

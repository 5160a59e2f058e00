package pgherd_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/pgherd/pgherd"
)

// What the libraries of clouds and vaults offer, as far as it matters here.
var (
	// auth.BuildAuthToken of github.com/aws/aws-sdk-go-v2/feature/rds/auth
	buildAuthToken = func(_ context.Context, endpoint, _, user string) (string, error) { return user + "@" + endpoint, nil }
	// GetToken of a credential of github.com/Azure/azure-sdk-for-go/sdk/azidentity
	getToken = func(_ context.Context, scope string) (token string, expires time.Time, err error) {
		return "token for " + scope, time.Now().Add(time.Hour), nil
	}
	// Logical().ReadWithContext of github.com/hashicorp/vault/api, of "database/creds/app"
	readLease = func(context.Context, string) (user, password string, seconds int, err error) {
		return "v-app-1", "secret", 3600, nil
	}
	// Dial of a Dialer of cloud.google.com/go/cloudsqlconn
	dialInstance = func(context.Context, string) (net.Conn, error) { return nil, net.ErrClosed }
)

func open(change func(*pgherd.Config)) *sql.DB {
	cfg, err := pgherd.ParseDSN("postgres://app@db.example.com/shop?replica_hosts=replica.example.com&sslmode=verify-full")
	if err != nil {
		log.Fatal(err)
	}
	change(cfg)
	c, err := pgherd.NewConnector(cfg)
	if err != nil {
		log.Fatal(err)
	}
	return sql.OpenDB(c)
}

// The tokens of RDS are signed for one address and user, and last for a quarter of an
// hour.
func ExampleCredentialProvider_rds() {
	rds := pgherd.CredentialFunc(func(ctx context.Context, login pgherd.Login) (pgherd.Credentials, error) {
		token, err := buildAuthToken(ctx, fmt.Sprintf("%s:%d", login.Host, login.Port), "eu-central-1", login.User)
		return pgherd.Credentials{Password: pgherd.Secret(token), Expires: time.Now().Add(15 * time.Minute)}, err
	})
	db := open(func(c *pgherd.Config) { c.Credentials = rds })
	defer db.Close()

	c, err := rds.Credentials(context.Background(), pgherd.Login{Host: "replica.example.com", Port: 5432, User: "app"})
	fmt.Println(string(c.Password), err)
	fmt.Println(c.Password)
	// Output:
	// app@replica.example.com:5432 <nil>
	// xxxxx
}

// Entra's tokens say themselves when they end.
func ExampleCredentialProvider_entra() {
	entra := pgherd.CredentialFunc(func(ctx context.Context, _ pgherd.Login) (pgherd.Credentials, error) {
		token, expires, err := getToken(ctx, "https://ossrdbms-aad.database.windows.net/.default")
		return pgherd.Credentials{Password: pgherd.Secret(token), Expires: expires}, err
	})
	db := open(func(c *pgherd.Config) { c.Credentials = entra })
	defer db.Close()
}

// A vault makes users, too. A role that all of them have owns what they create.
func ExampleCredentialProvider_vault() {
	vault := pgherd.CredentialFunc(func(ctx context.Context, _ pgherd.Login) (pgherd.Credentials, error) {
		user, password, seconds, err := readLease(ctx, "database/creds/app")
		return pgherd.Credentials{
			User:     user,
			Password: pgherd.Secret(password),
			Expires:  time.Now().Add(time.Duration(seconds) * time.Second),
		}, err
	})
	db := open(func(c *pgherd.Config) { c.Credentials = vault })
	defer db.Close()
}

// Cloud SQL has a dialer, which does TLS by itself.
func ExampleConfig_cloudSQL() {
	instances := map[string]string{"primary:5432": "project:region:primary", "replica:5432": "project:region:replica"}
	cfg, err := pgherd.ParseDSN("postgres://app@primary/shop?replica_hosts=replica&sslmode=disable")
	if err != nil {
		log.Fatal(err)
	}
	cfg.LookupHost = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	cfg.DialFunc = func(ctx context.Context, _, addr string) (net.Conn, error) { return dialInstance(ctx, instances[addr]) }
	c, err := pgherd.NewConnector(cfg)
	if err != nil {
		log.Fatal(err)
	}
	db := sql.OpenDB(c)
	defer db.Close()
	fmt.Println(len(c.Health().Servers))
	// Output: 2
}

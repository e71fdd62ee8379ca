using System.Collections.Concurrent;
using FramePin.Client;
using FramePin.V1;
using Grpc.Core;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Time.Testing;
using Xunit;

namespace FramePin.Tests.Integration.Client;

/// <summary>The settings of a client, by hand and in a container.</summary>
public sealed class OptionsTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task A_call_without_a_deadline_gets_the_clients_by_the_clients_clock(bool isLocal)
    {
        using var client = FramePinClient.Connect(daemon.Endpoint, options =>
        {
            options.IsLocal = isLocal;
            // A clock long ago: its deadline is over when the call begins.
            options.TimeProvider = new FakeTimeProvider();
        });
        var late = await Assert.ThrowsAsync<FramePinException>(() => client.DefaultMachine.GetAsync());
        Assert.Equal(StatusCode.DeadlineExceeded, late.StatusCode);
        var own = DateTime.UtcNow.AddMinutes(1);
        Assert.Equal("machines/default", (await client.Machines.GetMachineAsync(
            new GetMachineRequest { Name = "machines/default" }, deadline: own)).Name);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Interceptors_see_every_call_the_first_one_outermost(bool isLocal)
    {
        var names = new ConcurrentQueue<string>();
        using var client = FramePinClient.Connect(daemon.Endpoint, options =>
        {
            options.IsLocal = isLocal;
            options.Interceptors.Add(new RecordedCalls("outer ", names));
            options.Interceptors.Add(new RecordedCalls("inner ", names));
        });
        await client.DefaultMachine.GetAsync();
        Assert.Equal(["outer GetMachine", "inner GetMachine"], names);
    }

    [Theory]
    [InlineData("")]
    [InlineData("127.0.0.1:7461")]
    [InlineData("ftp://127.0.0.1")]
    public void An_endpoint_that_is_none_is_refused_at_once(string endpoint) =>
        Assert.Throws<ArgumentException>(() => FramePinClient.Connect(endpoint));

    [Fact]
    public void Settings_that_do_not_go_together_are_refused_at_once()
    {
        var token = CallCredentials.FromInterceptor((_, _) => Task.CompletedTask);
        Assert.Throws<ArgumentException>(
            () => FramePinClient.Connect("http://127.0.0.1:1", options => options.CallCredentials = token));
        using var handler = new SocketsHttpHandler();
        Assert.Throws<ArgumentException>(
            () => FramePinClient.Connect("unix:/nowhere", options => options.HttpHandler = handler));
    }

    [Fact]
    public async Task Call_credentials_travel_with_every_call()
    {
        var asked = 0;
        var token = CallCredentials.FromInterceptor((_, metadata) =>
        {
            asked++;
            metadata.Add("authorization", "Bearer x");
            return Task.CompletedTask;
        });
        using var client = FramePinClient.Connect(daemon.Endpoint, options => options.CallCredentials = token);
        await client.DefaultMachine.GetAsync();
        await client.DefaultMachine.GetAsync();
        Assert.Equal(2, asked);
    }

    [Fact]
    public async Task A_daemon_that_is_not_there_is_a_refusal_too()
    {
        using var client = FramePinClient.Connect($"unix:{Path.GetTempPath()}framepin-none.sock");
        var refused = await Assert.ThrowsAsync<FramePinException>(() => client.DefaultMachine.GetAsync());
        Assert.Equal(StatusCode.Unavailable, refused.StatusCode);
    }

    [Fact]
    public async Task A_container_makes_one_client_with_its_options_and_disposes_it()
    {
        var services = new ServiceCollection();
        services.AddFramePinClient(options => options.Endpoint = daemon.Endpoint);
        services.AddFramePinClient(options => options.Endpoint = "http://127.0.0.1:1");
        FramePinClient client;
        await using (var provider = services.BuildServiceProvider())
        {
            client = provider.GetRequiredService<FramePinClient>();
            using var scope = provider.CreateScope();
            Assert.Same(client, scope.ServiceProvider.GetRequiredService<FramePinClient>());
            Assert.Equal("machines/default", (await client.DefaultMachine.GetAsync()).Name);
        }

        await Assert.ThrowsAsync<ObjectDisposedException>(() => client.DefaultMachine.GetAsync());
    }

    [Fact]
    public async Task The_containers_log_and_clock_are_the_clients()
    {
        using var log = new RecordedLog();
        var services = new ServiceCollection();
        services.AddSingleton<ILoggerFactory>(log).AddSingleton<TimeProvider>(new FakeTimeProvider());
        services.AddFramePinClient(options =>
        {
            Assert.Same(log, options.LoggerFactory);
            options.Endpoint = daemon.Endpoint;
            options.IsLocal = false;
        });
        await using var provider = services.BuildServiceProvider();
        var client = provider.GetRequiredService<FramePinClient>();
        var late = await Assert.ThrowsAsync<FramePinException>(() => client.DefaultMachine.GetAsync());
        Assert.Equal(StatusCode.DeadlineExceeded, late.StatusCode);
        // The channel logs its calls to the same place.
        Assert.Contains(log.Events, entry => entry.Category.StartsWith("Grpc.Net.Client", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Settings_win_over_what_the_container_has()
    {
        var services = new ServiceCollection();
        services.AddSingleton<TimeProvider>(new FakeTimeProvider());
        services.AddFramePinClient(options =>
        {
            options.Endpoint = daemon.Endpoint;
            options.TimeProvider = TimeProvider.System;
        });
        await using var provider = services.BuildServiceProvider();
        await provider.GetRequiredService<FramePinClient>().DefaultMachine.GetAsync();
    }

    [Fact]
    public void A_registration_needs_settings() =>
        Assert.Throws<ArgumentNullException>(() => new ServiceCollection().AddFramePinClient(null!));
}

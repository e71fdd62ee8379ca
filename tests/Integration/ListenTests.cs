using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using FramePin.Client;
using FramePin.V1;
using Xunit;
using File = System.IO.File;

namespace FramePin.Tests.Integration;

/// <summary>
/// Where the daemon listens (faults S1, S2, S8, S14): it takes nobody's path, deletes nothing of its user's, listens
/// where its command line says and nowhere else, and tells a wrong word in one line.
/// </summary>
public sealed class ListenTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("framepin-listen-").FullName;

    private string Socket => Path.Combine(_folder, "s");

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    [Theory]
    [InlineData("--socket", "")]
    [InlineData("--socket", ".calls")]
    [InlineData("--attach-socket", "")]
    public async Task S2_a_regular_file_in_the_way_is_refused_and_stays(string option, string suffix)
    {
        await File.WriteAllTextAsync(Socket + suffix, "of the user", TestContext.Current.CancellationToken);
        using var run = DaemonRun.Start("--no-default-machine", option, Socket);
        await run.RefusedAsync($"{Socket}{suffix}: a file is there that is no socket");
        Assert.Equal(
            "of the user", await File.ReadAllTextAsync(Socket + suffix, TestContext.Current.CancellationToken));
        Assert.Equal([Socket + suffix], Directory.GetFileSystemEntries(_folder));
    }

    [Theory]
    [InlineData("folder")]
    [InlineData("link to a file")]
    [InlineData("link to nothing")]
    [InlineData("pipe")]
    public async Task S2_whatever_is_no_socket_is_refused_and_stays(string kind)
    {
        var file = Path.Combine(_folder, "file");
        if (kind == "folder") Directory.CreateDirectory(Socket);
        else if (kind == "pipe") await Process.Start("mkfifo", [Socket]).WaitForExitAsync();
        else File.CreateSymbolicLink(Socket, file);
        if (kind == "link to a file") await File.WriteAllTextAsync(file, "", TestContext.Current.CancellationToken);
        var before = Directory.GetFileSystemEntries(_folder);
        using var run = DaemonRun.Start("--no-default-machine", "--socket", Socket);
        await run.RefusedAsync($"{Socket}: a file is there that is no socket");
        Assert.Equal(before, Directory.GetFileSystemEntries(_folder));
    }

    [Theory]
    [InlineData("--socket", "--socket")]
    [InlineData("--attach-socket", "--attach-socket")]
    [InlineData("--socket", "--attach-socket")]
    public async Task S1_a_path_that_a_daemon_listens_on_is_refused_with_its_number(string first, string second)
    {
        using var owner = DaemonRun.Start("--no-default-machine", first, Socket);
        await owner.ReadyAsync();
        using (var other = DaemonRun.Start("--no-default-machine", second, Socket))
            await other.RefusedAsync($"{Socket}: in use by process {owner.Id.ToString(CultureInfo.InvariantCulture)}");
        Assert.True(File.Exists(Socket));
        await owner.SignalAsync("TERM");
        Assert.Equal(0, (await owner.EndAsync()).Code);
        Assert.Empty(Directory.GetFileSystemEntries(_folder));
    }

    [Fact]
    public async Task S1_a_socket_that_a_killed_daemon_left_is_taken_over()
    {
        using (var killed = DaemonRun.Start(Both))
        {
            await killed.ReadyAsync();
            await killed.SignalAsync("KILL");
            await killed.EndAsync();
        }

        Assert.Equal(3, Directory.GetFileSystemEntries(_folder).Length);
        using var next = DaemonRun.Start(Both);
        await next.ReadyAsync();
        await AnswersAsync($"unix:{Socket}");
        await next.SignalAsync("TERM");
        Assert.Equal(0, (await next.EndAsync()).Code);
        Assert.Empty(Directory.GetFileSystemEntries(_folder));
    }

    [Fact]
    public async Task S1_a_daemon_that_ends_leaves_the_sockets_of_another_under_its_names()
    {
        using var first = DaemonRun.Start(Both);
        await first.ReadyAsync();
        // Its files go, as by a tidy user, and another daemon takes the names.
        foreach (var file in Directory.GetFileSystemEntries(_folder)) File.Delete(file);
        using var second = DaemonRun.Start(Both);
        await second.ReadyAsync();
        await first.SignalAsync("TERM");
        Assert.Equal(0, (await first.EndAsync()).Code);
        Assert.Equal(3, Directory.GetFileSystemEntries(_folder).Length);
        await AnswersAsync($"unix:{Socket}");
    }

    [Fact]
    public async Task S1_of_many_daemons_that_start_at_once_one_gets_the_path()
    {
        // A dead socket lies there, which each of them would remove.
        using (var killed = DaemonRun.Start("--no-default-machine", "--socket", Socket))
        {
            await killed.ReadyAsync();
            await killed.SignalAsync("KILL");
            await killed.EndAsync();
        }

        var runs = Enumerable.Range(0, 6).Select(
            _ => DaemonRun.Start("--no-default-machine", "--socket", Socket)).ToList();
        try
        {
            var firsts = await Task.WhenAll(runs.Select(run => run.LineAsync()));
            var winner = Assert.Single(runs.Zip(firsts), pair => pair.Second is not null).First;
            await AnswersAsync($"unix:{Socket}");
            await winner.SignalAsync("TERM");
            foreach (var run in runs) Assert.Equal(run == winner ? 0 : 2, (await run.EndAsync()).Code);
            Assert.Empty(Directory.GetFileSystemEntries(_folder));
        }
        finally
        {
            foreach (var run in runs) run.Dispose();
        }
    }

    [Fact]
    public async Task S14_a_relative_path_is_below_the_current_folder()
    {
        using var run = DaemonRun.Start(_folder, [], "--no-default-machine", "--socket", "s");
        await run.ReadyAsync();
        await AnswersAsync($"unix:{Socket}");
    }

    [Fact]
    public async Task S14_a_path_that_just_fits_is_served_and_a_longer_one_is_refused()
    {
        const int most = 107;
        var fits = Socket + new string('x', most - Socket.Length - ".calls".Length);
        using (var run = DaemonRun.Start("--no-default-machine", "--socket", fits))
        {
            await run.ReadyAsync();
            await AnswersAsync($"unix:{fits}");
        }

        using var longer = DaemonRun.Start("--no-default-machine", "--socket", fits + "y");
        await longer.RefusedAsync("the path of a socket has at most 107 bytes");
    }

    [Theory]
    [InlineData("there is no folder", "--socket", "/nonexistent/framepin/s")]
    [InlineData("is empty", "--socket", "")]
    [InlineData("this is a folder", "--socket", "/tmp/")]
    [InlineData("a port is a number", "--tcp", "65536")]
    [InlineData("a port is a number", "--tcp", "-1")]
    [InlineData("'abc'", "--tcp", "abc")]
    [InlineData("--bogus", "--bogus")]
    [InlineData("'9.99'", "--default-profile", "9.99")]
    [InlineData("--default-memory-mib", "--default-memory-mib", "0")]
    [InlineData("--default-memory-mib", "--default-memory-mib", "99999999999999999")]
    [InlineData("-5", "--default-memory-mib", "-5")]
    [InlineData("no group", "--attach-group", "no-such-group", "--tcp", "0")]
    public async Task S14_a_wrong_word_is_one_line_and_exit_code_2(string says, params string[] arguments)
    {
        using var run = DaemonRun.Start(arguments);
        await run.RefusedAsync(says);
    }

    [Fact]
    public async Task S14_a_port_in_use_is_one_line_and_exit_code_2()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        var port = ((IPEndPoint)listener.LocalEndpoint).Port.ToString(CultureInfo.InvariantCulture);
        using var run = DaemonRun.Start("--no-default-machine", "--tcp", port, "--socket", Socket);
        await run.RefusedAsync($"port {port} of 127.0.0.1: in use by another process");
        // The socket that was bound before went with it.
        Assert.Empty(Directory.GetFileSystemEntries(_folder));
    }

    [Theory]
    [InlineData("OTEL_EXPORTER_OTLP_ENDPOINT", "nowhere")]
    [InlineData("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "ftp://127.0.0.1")]
    [InlineData("OTEL_TRACES_EXPORTER", "jaeger")]
    public async Task S14_a_variable_that_cannot_be_meant_so_is_one_line_and_leaves_nothing(string name, string value)
    {
        using var run = DaemonRun.Start(null, [(name, value)], "--no-default-machine", "--socket", Socket);
        await run.RefusedAsync(name);
        Assert.Empty(Directory.GetFileSystemEntries(_folder));
    }

    [Theory]
    [InlineData("Kestrel__Endpoints__X__Url")]
    [InlineData("ASPNETCORE_URLS")]
    [InlineData("DOTNET_URLS")]
    [InlineData("URLS")]
    [InlineData("ASPNETCORE_HTTP_PORTS")]
    [InlineData("HTTP_PORTS")]
    public async Task S8_no_variable_opens_a_listener(string name)
    {
        using var free = new TcpListener(IPAddress.Loopback, 0);
        free.Start();
        var port = ((IPEndPoint)free.LocalEndpoint).Port;
        free.Stop();
        var value = name.EndsWith("PORTS", StringComparison.Ordinal) ? $"{port}" : $"http://127.0.0.1:{port}";
        using var run = DaemonRun.Start(
            _folder, [(name, value), ("Kestrel__Endpoints__X__Protocols", "Http2")], "--no-default-machine",
            "--socket", Socket);
        Assert.Equal([$"framepind listening on http://unix:{Socket}"], await run.ReadyAsync());
        using var probe = new TcpClient();
        await Assert.ThrowsAsync<SocketException>(
            () => probe.ConnectAsync(IPAddress.Loopback, port, TestContext.Current.CancellationToken).AsTask());
    }

    [Fact]
    public async Task S8_no_file_opens_a_listener()
    {
        await File.WriteAllTextAsync(
            Path.Combine(_folder, "appsettings.json"),
            """{ "Kestrel": { "Endpoints": { "X": { "Url": "http://127.0.0.1:0" } } } }""",
            TestContext.Current.CancellationToken);
        using var run = DaemonRun.Start(_folder, [], "--no-default-machine", "--socket", Socket);
        Assert.Equal([$"framepind listening on http://unix:{Socket}"], await run.ReadyAsync());
    }

    private string[] Both =>
        ["--no-default-machine", "--socket", Socket, "--attach-socket", Path.Combine(_folder, "attach")];

    private static async Task AnswersAsync(string endpoint)
    {
        using var client = FramePinClient.Connect(endpoint);
        Assert.Empty((await client.Machines.ListMachinesAsync(new ListMachinesRequest())).Machines);
    }
}

using System.Globalization;
using System.Text.Json.Nodes;
using FramePin.Cli;
using FramePin.Client;
using FramePin.V1;
using Xunit;

namespace FramePin.Tests.Integration.Commands;

/// <summary>
/// The command framepin as a user meets it: wrong lines are refused with a sentence and exit code 2, refusals of the
/// daemon with 1, a missing or silent daemon with 3; a stack trace is never printed (part 4).
/// </summary>
public sealed class CommandTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private static CancellationToken Cancelled => TestContext.Current.CancellationToken;

    /// <summary>Part 4: numbers out of range, unknown words, options that would be passed over in silence.</summary>
    [Theory]
    [InlineData("map as1 64K --prot q", "'q' is no protection")]
    [InlineData("map as1 64K --prot xyz", "'xyz' is no protection")]
    [InlineData("map as1 64K --prot RW", "'RW' is no protection")]
    [InlineData("map as1 64K --prot rr", "'rr' is no protection")]
    [InlineData("map as1 99999999999T", "larger than any")]
    [InlineData("map as1 1.5G", "is no address or size")]
    [InlineData("map as1 0x", "is no address or size")]
    [InlineData("pin as1 0x1000 0", "pages: '0' is no whole number from 1")]
    [InlineData("pin as1 0x1000 -1", "from 1")]
    [InlineData("unpin abc", "'abc' is no frame vector")]
    [InlineData("convert machines/default/frameVectors/x pfns", "is no frame vector")]
    [InlineData("v4l2 streamon abc", "'abc' is no open file")]
    [InlineData("read as1 0x1000 0xffffffffffffffff", "behind the last address")]
    [InlineData("v4l2 capture video0 -n -1", "--frames: '-1' is no whole number from 1")]
    [InlineData("v4l2 capture video0 -n 0", "--frames")]
    [InlineData("v4l2 capture video0 --width 0", "--width: '0'")]
    [InlineData("v4l2 capture video0 --height -480", "--height: '-480'")]
    [InlineData("v4l2 capture video0 --buffers 65", "--buffers: '65' is no whole number from 1 to 64")]
    [InlineData("v4l2 capture video0 --fps -1", "--fps: '-1' is no number from 0")]
    [InlineData("v4l2 capture video0 --fps NaN", "--fps: 'NaN'")]
    [InlineData("v4l2 capture video0 --ttl 0", "--ttl: '0' is no number from 0.1")]
    [InlineData("v4l2 capture video0 --format ABCD", "'ABCD'")]
    [InlineData("v4l2 capture video0 --pattern plaid", "plaid")]
    [InlineData("v4l2 capture video0 --save foo.bmp", "ends in neither .png nor .raw")]
    [InlineData("v4l2 capture video0 --save /no/such/folder/foo.png", "no folder")]
    [InlineData("v4l2 reqbufs 1 4294967296", "count: '4294967296' is no whole number from 0 to 4294967295")]
    [InlineData("create --profile 6.18 --memory 64Z", "'64Z' is no address or size")]
    [InlineData("create --memory abc", "--memory is a property of a new machine")]
    [InlineData("create --profile 6.18 --memory -1", "'-1' is no address or size")]
    [InlineData("create --profile 6.18 --swap 64Z", "'64Z' is no address or size")]
    [InlineData("create --profile 6.18 --memory 0", "--memory: a machine without memory cannot be")]
    [InlineData("v4l2 reqbufs 1 3 --type 0", "--type: '0'")]
    [InlineData("v4l2 qbuf 1 0 as1 0x1000 5G", "at most 4294967295 bytes")]
    [InlineData("drive vivid --fps -1", "--fps: '-1'")]
    [InlineData("drive omap-vout --ttl 0", "--ttl: '0'")]
    [InlineData("leaks --older -1", "--older: '-1'")]
    [InlineData("demo --seconds 0", "--seconds: '0'")]
    [InlineData("conformance --steps -1", "--steps: '-1' is no whole number from 1")]
    [InlineData("conformance --max-divergences 0", "--max-divergences")]
    [InlineData("conformance --user -5", "--user")]
    [InlineData("conformance --keep k", "--keep goes with --script")]
    [InlineData("conformance --matrix m --steps 5", "--steps has no meaning with --matrix")]
    [InlineData("import --pid 0", "--pid: '0'")]
    [InlineData("import --pid 4194304", "there is no process 4194304")]
    [InlineData("replay /nonexistent", "there is no folder /nonexistent")]
    [InlineData("replay --strace /nonexistent --maps-start /nonexistent", "there is no file /nonexistent")]
    [InlineData("replay", "wants a folder, or --strace and --maps-start")]
    [InlineData("replay / --strace x", "for a replay without a folder")]
    [InlineData("replay x -m m1", "a replay makes machines of its own")]
    [InlineData("record -m m1 -- true", "no daemon takes part")]
    [InlineData("create --memory 64M", "--memory is a property of a new machine")]
    [InlineData("create --swap 64M", "--swap is a property of a new machine")]
    [InlineData("-e garbage machines", "'garbage' is no endpoint")]
    [InlineData("-e ftp://x machines", "'ftp://x' is no endpoint")]
    [InlineData("-e unix: machines", "names no socket")]
    [InlineData("-e host:99999 machines", "is no endpoint")]
    [InlineData("-e host:0 machines", "is no endpoint")]
    [InlineData("-e :7461 machines", "is no endpoint")]
    [InlineData("-e http:// machines", "is no endpoint")]
    [InlineData("-e http://a:1/b machines", "is no endpoint")]
    [InlineData("machines -o xml", "'xml'")]
    [InlineData("-e a machines -e b", "expects a single argument but 2")]
    [InlineData("machines -e", "Required argument missing")]
    [InlineData("no-such-command", "no-such-command")]
    public async Task A_wrong_line_is_refused_with_a_sentence(string line, string said)
    {
        var run = await RunAsync(line.Split(' '));
        Assert.Equal((2, ""), (run.ExitCode, run.Out));
        Assert.Contains(said, run.Error, StringComparison.Ordinal);
        AssertSentence(run);
    }

    [Fact]
    public async Task An_empty_endpoint_and_one_that_is_too_long_are_refused()
    {
        Assert.Equal(2, (await RunAsync("-e", "", "machines")).ExitCode);
        var run = await RunAsync("-e", "/" + new string('x', 120), "machines");
        Assert.Equal(2, run.ExitCode);
        Assert.Contains("at most 107 bytes", run.Error, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("/path/of/daemon.sock", "unix:/path/of/daemon.sock")]
    [InlineData("./daemon.sock", "unix:./daemon.sock")]
    [InlineData("unix:daemon.sock", "unix:daemon.sock")]
    [InlineData("localhost:7461", "http://localhost:7461")]
    [InlineData("[::1]:7461", "http://[::1]:7461")]
    [InlineData("https://host:7461", "https://host:7461")]
    public void An_endpoint_is_understood_as_users_write_it(string text, string endpoint) =>
        Assert.Equal(endpoint, Endpoints.Parse(text));

    /// <summary>The last letters of a hexadecimal address are digits and no unit.</summary>
    [Theory]
    [InlineData("0x7fb", 0x7fbUL)]
    [InlineData("0xB", 0xbUL)]
    [InlineData("64K", 65536UL)]
    [InlineData("64KiB", 65536UL)]
    [InlineData("64kB", 65536UL)]
    [InlineData("100B", 100UL)]
    [InlineData("0xffffffffffffffff", ulong.MaxValue)]
    public void A_size_is_read_whole(string text, ulong bytes) => Assert.Equal(bytes, Values.ParseSize(text));

    [Theory]
    [InlineData("16777216T")]
    [InlineData("18446744073709551616")]
    [InlineData("0x10000000000000000")]
    public void A_size_above_64_bits_is_refused(string text) =>
        Assert.Throws<OverflowException>(() => Values.ParseSize(text));

    [Fact]
    public async Task A_missing_daemon_is_3_for_every_form_of_endpoint()
    {
        foreach (var endpoint in new[] { "/nonexistent/daemon.sock", "unix:/nonexistent/daemon.sock", "127.0.0.1:1" })
        {
            var run = await RunAsync("-e", endpoint, "machines");
            Assert.Equal(3, run.ExitCode);
            Assert.Contains($"no daemon at {endpoint}", run.Error, StringComparison.Ordinal);
            AssertSentence(run);
        }
    }

    /// <summary>What is there in a daemon's place is said.</summary>
    [Fact]
    public async Task S11_what_is_no_daemon_is_3_and_the_reason_is_told()
    {
        var folder = Directory.CreateTempSubdirectory("framepin-none-").FullName;
        using var http = new System.Net.Sockets.TcpListener(System.Net.IPAddress.Loopback, 0);
        http.Start();
        var answering = AnswerInHttp1Async(http);
        try
        {
            var file = Path.Combine(folder, "file");
            await System.IO.File.WriteAllTextAsync(file, "", Cancelled);
            var pipe = Path.Combine(folder, "pipe");
            using (var make = System.Diagnostics.Process.Start("mkfifo", [pipe]))
                await make.WaitForExitAsync(Cancelled);
            (string Endpoint, string Reason)[] rows =
            [
                (file, "the file is no socket"), (pipe, "the file is no socket"),
                ("no-such-host.invalid:7461", ""), ($"{http.LocalEndpoint}", "what listens speaks no HTTP/2"),
                ("/nonexistent/daemon.sock", "there is no such file"), ("127.0.0.1:1", "nobody listens there"),
            ];
            foreach (var (endpoint, reason) in rows)
            {
                var run = await RunAsync("-e", endpoint, "machines");
                Assert.Equal(3, run.ExitCode);
                Assert.Contains($"no daemon at {endpoint}: {reason}", run.Error, StringComparison.Ordinal);
                Assert.DoesNotContain($"no daemon at {endpoint}: start", run.Error, StringComparison.Ordinal);
                AssertSentence(run);
            }
        }
        finally
        {
            http.Stop();
            await answering;
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>Memory that cannot be stored to whole does not stay mapped.</summary>
    [Fact]
    public async Task A_map_whose_touch_is_refused_leaves_nothing_mapped()
    {
        var (machine, space) = await daemon.CreateAsync();
        var run = await RunAsync("map", space, "8G", "--touch");
        Assert.Equal(1, run.ExitCode);
        AssertSentence(run);
        var maps = await daemon.Client.AddressSpaces.GetMapsAsync(
            new GetMapsRequest { AddressSpace = space }, cancellationToken: Cancelled);
        Assert.Empty(maps.Entries);
        Assert.Equal(0, (await RunAsync("map", space, "64K", "--touch", "--prot", "rw-")).ExitCode);
        // A store to memory without the right ends with its signal, and is no lack of memory.
        run = await RunAsync("map", space, "64K", "--touch", "--prot", "r");
        Assert.Contains("SIGSEGV", run.Error, StringComparison.Ordinal);
        await daemon.DigestAsync(machine);
    }

    [Fact]
    public async Task A_read_of_more_than_there_is_ends_with_the_signal_and_without_memory()
    {
        var (_, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, 0x10_0000, 600);
        var run = await RunAsync("read", space, "0x100000", "100G");
        Assert.Equal(1, run.ExitCode);
        Assert.Contains("SIGSEGV", run.Error, StringComparison.Ordinal);
        AssertSentence(run);
        // Several chunks, the last one short.
        run = await RunAsync("read", space, "0x100000", "2400000");
        Assert.Equal((0, 2_400_000), (run.ExitCode, run.Out.Length));
    }

    /// <summary>--machine is never passed over: it names the new machine, or the one that is listed.</summary>
    [Fact]
    public async Task The_machine_of_the_line_is_the_one_that_is_used()
    {
        var id = $"m{Guid.NewGuid():N}";
        var run = await RunAsync("create", "--profile", "6.12", "--memory", "64M", "-m", id);
        Assert.Contains($"machines/{id}/addressSpaces/as1", run.Out, StringComparison.Ordinal);
        run = await RunAsync("machines", "-m", id, "-o", "json");
        var machine = Assert.Single(JsonNode.Parse(run.Out)!["machines"]!.AsArray());
        Assert.Equal($"machines/{id}", (string?)machine!["name"]);
        Assert.Equal("67108864", (string?)machine["spec"]!["memoryBytes"]);
        run = await RunAsync("machines", "-m", "nope");
        Assert.Equal(1, run.ExitCode);
        Assert.Contains("[NOT_FOUND, MACHINE_NOT_FOUND]", run.Error, StringComparison.Ordinal);
    }

    /// <summary>A row of a table is a line where no terminal is, however long its names are.</summary>
    [Fact]
    public async Task A_piped_table_does_not_wrap()
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, 0x10_0000, 22);
        for (var page = 0UL; page < 22; page++)
            await daemon.Client.Pinning.PinAsync(
                new PinRequest { AddressSpace = space, Start = 0x10_0000 + (page << 12), Pages = 1 },
                cancellationToken: Cancelled);
        foreach (var command in new[] { "frames", "who" })
        {
            var run = await RunAsync(command, "-m", machine);
            var lines = run.Out.Split('\n', StringSplitOptions.RemoveEmptyEntries);
            Assert.Equal(23, lines.Length);
            Assert.Equal(22, lines.Count(line => line.Contains($"{machine}/frameVectors/", StringComparison.Ordinal)
                && line.Contains(space, StringComparison.Ordinal)));
        }
    }

    [Fact]
    public async Task Json_has_addresses_in_hex_empty_lists_owners_and_ages()
    {
        var (machine, space) = await daemon.CreateAsync();
        var empty = await JsonAsync("who", "-m", machine);
        Assert.Empty(empty["frameVectors"]!.AsArray());
        var mapped = await JsonAsync("map", space, "64K", "--touch", "--at", "0x7f0000000000");
        Assert.Equal("0x7f0000000000", (string?)mapped["value"]);
        var maps = await JsonAsync("maps", space);
        Assert.Equal("0x7f0000000000", (string?)maps["entries"]![0]!["start"]);
        Assert.Equal("0x7f0000010000", (string?)maps["entries"]![0]!["end"]);
        await using var lease = await FramePinLease.OpenAsync(
            daemon.Client, machine, "an owner", cancellationToken: Cancelled);
        var pinned = await JsonAsync("pin", space, "0x7f0000000000", "2", "--lease", lease.Name);
        Assert.NotNull(pinned["frameVector"]);
        var held = Assert.Single((await JsonAsync("who", "-m", machine))["frameVectors"]!.AsArray())!;
        Assert.Equal("0x7f0000000000", (string?)held["start"]);
        Assert.Equal("an owner", (string?)held["owner"]);
        Assert.True((double?)held["ageSeconds"] >= 0);
        Assert.Single((await JsonAsync("leaks", "--older", "0", "-m", machine))["frameVectors"]!.AsArray());
        Assert.Contains("an owner", (await RunAsync("who", "-m", machine)).Out, StringComparison.Ordinal);
    }

    /// <summary>V12: what a terminal would obey is shown by its number, also where an older daemon let it in.</summary>
    [Theory]
    [InlineData("an owner\u001b[31m\n", "an owner\\x1b[31m\\x0a")]
    [InlineData("a\u202eb\u009b", "a\\u202eb\\x9b")]
    [InlineData("größe 😀", "größe 😀")]
    public void Control_characters_are_shown(string text, string shown) => Assert.Equal(shown, Values.Show(text));

    [Fact]
    public async Task A_refusal_is_json_where_the_answer_would_be()
    {
        var (machine, space) = await daemon.CreateAsync();
        var run = await RunAsync("unmap", space, "0x123", "64K", "-o", "json");
        Assert.Equal(1, run.ExitCode);
        var error = JsonNode.Parse(run.Error)!["error"]!;
        Assert.Equal(("INVALID_ARGUMENT", "EINVAL", 22), (
            (string?)error["code"], (string?)error["reason"], (int?)error["errno"]));
        run = await RunAsync("maps", $"{machine}/addressSpaces/as99", "-o", "json");
        Assert.Equal("NOT_FOUND", (string?)JsonNode.Parse(run.Error)!["error"]!["code"]);
        run = await RunAsync("map", "as1", "-o", "json");
        Assert.Equal((2, 2), (run.ExitCode, (int?)JsonNode.Parse(run.Error)!["error"]!["exit_code"]));
        run = await RunAsync("-e", "/nonexistent", "machines", "-o", "json");
        Assert.Equal((3, 3), (run.ExitCode, (int?)JsonNode.Parse(run.Error)!["error"]!["exit_code"]));
    }

    /// <summary>
    /// Every option that is a number has a range, but for addresses and sizes, which have their own form.
    /// </summary>
    [Fact]
    public void Every_number_has_a_range()
    {
        string[] sizes = ["--at", "--memory", "--prot", "--swap"];
        var numbers = Commands(Root.Create(new CommandLine())).SelectMany(
            command => command.Options.Select(option => (Command: command, Option: option))).Where(
                pair => IsNumber(pair.Option.ValueType) && !sizes.Contains(pair.Option.Name)).ToList();
        Assert.InRange(numbers.Count, 10, int.MaxValue);
        Assert.All(numbers, pair => Assert.Contains(" to ", pair.Option.Description, StringComparison.Ordinal));
    }

    internal static void AssertSentence(CommandRun run)
    {
        Assert.DoesNotContain("   at ", run.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("Unhandled", run.Error, StringComparison.Ordinal);
        Assert.DoesNotContain("Parameter '", run.Error, StringComparison.Ordinal);
        Assert.NotEqual("", run.Error.Trim());
        Assert.True(run.Error.Trim().Split('\n').Length <= 3, run.Error);
    }

    private static bool IsNumber(Type type) =>
        (Nullable.GetUnderlyingType(type) ?? type) is { IsPrimitive: true } real && real != typeof(bool);

    private static IEnumerable<System.CommandLine.Command> Commands(System.CommandLine.Command command) =>
        command.Subcommands.SelectMany(Commands).Prepend(command);

    private async Task<JsonNode> JsonAsync(params string[] arguments)
    {
        var run = await RunAsync([.. arguments, "-o", "json"]);
        Assert.True(run.Error.Length == 0, run.Error);
        return JsonNode.Parse(run.Out)!;
    }

    private Task<CommandRun> RunAsync(params string[] arguments) =>
        CommandRun.OfAsync(daemon.Endpoint, arguments, Cancelled);

    private static async Task AnswerInHttp1Async(System.Net.Sockets.TcpListener listener)
    {
        try
        {
            while (true)
            {
                using var client = await listener.AcceptTcpClientAsync(Cancelled);
                await client.GetStream().WriteAsync(
                    "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"u8.ToArray(), Cancelled);
            }
        }
        catch (Exception exception) when (exception is System.Net.Sockets.SocketException or IOException
            or ObjectDisposedException)
        {
            // The listener was stopped.
        }
    }
}

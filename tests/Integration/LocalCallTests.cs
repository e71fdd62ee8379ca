using System.Globalization;
using FramePin.Client;
using FramePin.Drivers;
using FramePin.Server.Configuration;
using FramePin.V1;
using FramePin.V1.Local;
using Google.Protobuf;
using Grpc.Core;
using Xunit;
using Errno = FramePin.Drivers.Errno;
using File = System.IO.File;

namespace FramePin.Tests.Integration;

/// <summary>
/// Calls that go past HTTP/2 on this host (framepin/v1/local.proto): answered as gRPC answers them, and ended by
/// whatever ends a call.
/// </summary>
public sealed class LocalCallTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private const string Ioctl = "/framepin.v1.DriverService/Ioctl";
    private const string PinStream = "/framepin.v1.PinningService/PinStream";
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(20);

    private string Calls => daemon.Endpoint["unix:".Length..] + ".calls";

    [Fact]
    public async Task Answers_and_refusals_are_those_of_grpc()
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 8);
        using var remote = FramePinClient.Connect(daemon.Endpoint, options => options.IsLocal = false);
        var seen = new List<string[]>();
        foreach (var client in new[] { daemon.Client, remote })
        {
            var answers = new List<string>();
            foreach (var file in new[] { $"{machine}/driverFiles/999", $"{machine}/driverFiles/x",
                "machines/none/driverFiles/1", "" })
                answers.Add(
                    await TellAsync(async () =>
                        (await client.Drivers.IoctlAsync(new IoctlRequest { File = file, Command = "X" })).ToString()));
            answers.Add(
                await TellAsync(() => Task.FromResult(
                    client.Drivers.Ioctl(new IoctlRequest { File = $"{machine}/driverFiles/999" }).ToString())));
            foreach (var batch in new[]
            {
                new PinBatch { Sequence = 1, AddressSpace = space, Operations = { Pin(8) } },
                new PinBatch { Sequence = 1, AddressSpace = space, Operations = { Pin(9) } },
                new PinBatch { Sequence = 1, AddressSpace = "machines/default/addressSpaces/none",
                    Operations = { Pin(8) } },
                new PinBatch { Sequence = 7, AddressSpace = space },
                new PinBatch { Sequence = 1, AddressSpace = space, Operations = { new PinOperation() } },
                new PinBatch { Sequence = 1, AddressSpace = space, Session = new string('s', 1000) },
            })
                answers.Add(await TellAsync(() => AskAsync(client, batch)));
            seen.Add([.. answers]);
        }

        Assert.Equal(seen[1], seen[0]);
        Assert.Equal(
            7, seen[0].Count(answer => answer.Contains("\"domain\": \"framepin.dev\"", StringComparison.Ordinal)));
    }

    [Fact]
    public async Task Streams_carry_many_messages_of_all_sizes_either_way()
    {
        var (_, space) = await daemon.CreateAsync();
        using var stream = daemon.Client.Pinning.PinStream();
        var sending = Task.Run(async () =>
        {
            // Far ahead of the answers, as pipelined streams are.
            for (var i = 1; i <= 500; i++)
            {
                var batch = new PinBatch { Sequence = (ulong)i, AddressSpace = space };
                for (var k = 1; k <= i * 8; k++)
                    batch.Operations.Add(new PinOperation { Unpin = (ulong)(1_000_000 + k) });
                await stream.RequestStream.WriteAsync(batch);
            }

            await stream.RequestStream.CompleteAsync();
        });
        for (var i = 1; i <= 500; i++)
        {
            Assert.True(await stream.ResponseStream.MoveNext(CancellationToken.None).WaitAsync(Patience));
            var result = stream.ResponseStream.Current;
            Assert.Equal(((ulong)i, i * 8), (result.Sequence, result.Results.Count));
            Assert.All(result.Results.Select((answer, k) => (answer.FrameVector, Wanted: (ulong)(1_000_001 + k))),
                pair => Assert.Equal(pair.Wanted, pair.FrameVector));
        }

        await sending;
        Assert.False(await stream.ResponseStream.MoveNext(CancellationToken.None).WaitAsync(Patience));
        Assert.Equal(StatusCode.OK, stream.GetStatus().StatusCode);
    }

    [Fact]
    public async Task A_call_that_is_cancelled_or_too_late_ends_and_the_driver_is_told()
    {
        await using var driver = await SilentDriver.StartAsync(daemon.Client);
        using var source = new CancellationTokenSource();
        var call = daemon.Client.Drivers.IoctlAsync(driver.Request, cancellationToken: source.Token).ResponseAsync;
        var asked = await driver.NextAsync();
        await source.CancelAsync();
        Assert.Equal(
            StatusCode.Cancelled, (await Assert.ThrowsAsync<RpcException>(() => call.WaitAsync(Patience))).StatusCode);
        Assert.Equal(asked.Call, (await driver.NextAsync()).Interrupt);

        call = daemon.Client.Drivers.IoctlAsync(
            driver.Request, deadline: DateTime.UtcNow.AddMilliseconds(50)).ResponseAsync;
        asked = await driver.NextAsync();
        Assert.Equal(StatusCode.DeadlineExceeded,
            (await Assert.ThrowsAsync<RpcException>(() => call.WaitAsync(Patience))).StatusCode);
        Assert.Equal(asked.Call, (await driver.NextAsync()).Interrupt);

        var disposed = daemon.Client.Drivers.IoctlAsync(driver.Request);
        asked = await driver.NextAsync();
        disposed.Dispose();
        Assert.Equal(StatusCode.Cancelled,
            (await Assert.ThrowsAsync<RpcException>(() => disposed.ResponseAsync.WaitAsync(Patience))).StatusCode);
        Assert.Equal(asked.Call, (await driver.NextAsync()).Interrupt);

        // Cancelled before it begins.
        call = daemon.Client.Drivers.IoctlAsync(driver.Request, cancellationToken: source.Token).ResponseAsync;
        Assert.Equal(
            StatusCode.Cancelled, (await Assert.ThrowsAsync<RpcException>(() => call.WaitAsync(Patience))).StatusCode);

        // And the others go on.
        call = daemon.Client.Drivers.IoctlAsync(driver.Request).ResponseAsync;
        await driver.AnswerAsync(await driver.NextAsync(), Errno.EBUSY);
        Assert.Equal((uint)Errno.EBUSY, (await call.WaitAsync(Patience)).Errno);
    }

    [Fact]
    public async Task Calls_side_by_side_have_connections_of_their_own()
    {
        await using var driver = await SilentDriver.StartAsync(daemon.Client);
        var calls = Enumerable.Range(0, 40).Select(
            _ => daemon.Client.Drivers.IoctlAsync(driver.Request).ResponseAsync).ToList();
        var asked = new List<DriverCall>();
        foreach (var _ in calls) asked.Add(await driver.NextAsync());
        // The last first: none waits for another.
        for (var i = asked.Count - 1; i >= 0; i--) await driver.AnswerAsync(asked[i], Errno.EAGAIN);
        foreach (var call in calls) Assert.Equal((uint)Errno.EAGAIN, (await call.WaitAsync(Patience)).Errno);
    }

    [Fact]
    public async Task What_is_no_call_is_refused_with_details_and_harms_nobody()
    {
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 1);
        byte[] request = new IoctlRequest { File = $"{machine}/driverFiles/1" }.ToByteArray();
        (StatusCode Code, byte[] Bytes)[] cases =
        [
            (StatusCode.Unimplemented, RawCaller.Packet(
                PacketKind.Call, new LocalCallHeader { Method = "/framepin.v1.PinningService/None" }.ToByteArray())),
            (StatusCode.Unimplemented, RawCaller.Packet(PacketKind.Call, [])),
            (StatusCode.InvalidArgument, RawCaller.Packet(PacketKind.Message, request)),
            (StatusCode.InvalidArgument, RawCaller.Packet(PacketKind.End, [])),
            (StatusCode.InvalidArgument, RawCaller.Packet(PacketKind.Status, [])),
            (StatusCode.InvalidArgument, RawCaller.Packet((PacketKind)77, [])),
            (StatusCode.InvalidArgument, RawCaller.Packet(PacketKind.Call, [0xff, 0xff])),
            (StatusCode.InvalidArgument,
                [.. RawCaller.Head(Ioctl), .. RawCaller.Packet(PacketKind.Message, [0xff, 0xff])]),
            (StatusCode.InvalidArgument,
                [.. RawCaller.Head(PinStream), .. RawCaller.Packet(PacketKind.Message, [0xff, 0xff])]),
            (StatusCode.InvalidArgument, [.. RawCaller.Head(PinStream), .. RawCaller.Head(PinStream)]),
            (StatusCode.InvalidArgument,
                RawCaller.Packet(PacketKind.Call,
                new LocalCallHeader { Method = Ioctl, Metadata = { new LocalMetadata { Key = "ä" } } }.ToByteArray())),
            (StatusCode.ResourceExhausted, [0xff, 0xff, 0xff, 0xff, 1]),
            (StatusCode.ResourceExhausted, [.. RawCaller.Head(PinStream), 0, 0, 0, 0x7f, 2]),
        ];
        foreach (var (code, bytes) in cases)
        {
            using var caller = new RawCaller(Calls);
            caller.Send(bytes);
            var status = caller.Status();
            Assert.Equal((code, true),
                ((StatusCode)status.Code, status.Trailers.Any(trailer => trailer.Key == "grpc-status-details-bin")));
            Assert.True(caller.IsClosed());
        }

        Assert.Equal(
            (uint)Errno.ENODEV, (await daemon.Client.Drivers.IoctlAsync(IoctlRequest.Parser.ParseFrom(request))).Errno);
    }

    [Fact]
    public async Task Random_bytes_in_random_pieces_end_a_connection_and_nothing_else()
    {
        var seed = Environment.GetEnvironmentVariable("FRAMEPIN_SEED") is { Length: > 0 } given
            ? int.Parse(given, CultureInfo.InvariantCulture)
            : (int)(DateTime.UtcNow.Ticks & 0x7fffffff);
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}: set FRAMEPIN_SEED to repeat");
        var random = new Random(seed);
        var (machine, space) = await daemon.CreateAsync();
        await daemon.MapAsync(space, At, 4);
        var digest = await daemon.DigestAsync(machine);
        for (var round = 0; round < 300; round++)
        {
            using var caller = new RawCaller(Calls);
            // A good beginning, and then whatever comes.
            List<byte> bytes = [.. RawCaller.Head(random.Next(2) == 0 ? Ioctl : PinStream)];
            for (var i = random.Next(4); i > 0; i--)
            {
                var payload = new byte[random.Next(40)];
                random.NextBytes(payload);
                bytes.AddRange(RawCaller.Packet((PacketKind)random.Next(6), payload));
            }

            if (random.Next(3) == 0) bytes[random.Next(bytes.Count)] ^= (byte)(1 << random.Next(8));
            for (var at = 0; at < bytes.Count;)
            {
                var count = Math.Min(1 + random.Next(20), bytes.Count - at);
                if (!caller.TrySend([.. bytes[at..(at + count)]])) break;
                at += count;
            }
        }

        // The calls before are over when the machine has nothing of theirs.
        while (daemon.MachineOf(machine).Statistics().Vectors > 0) await Task.Yield();
        Assert.Equal(digest, await daemon.DigestAsync(machine));
        Assert.Equal((uint)Errno.ENODEV,
            (await daemon.Client.Drivers.IoctlAsync(new IoctlRequest { File = $"{machine}/driverFiles/1" })).Errno);
    }

    [Fact]
    public void Packets_come_out_as_they_went_in_whatever_pieces_they_arrive_in()
    {
        var random = new Random(20261126);
        var (writer, reader) = (new PacketWriter(), new PacketReader(1 << 20));
        for (var round = 0; round < 300; round++)
        {
            writer.Clear();
            var sent = new List<(PacketKind Kind, string Method)>();
            for (var i = random.Next(1, 6); i > 0; i--)
            {
                var head = new LocalCallHeader
                {
                    Method = new string(
                    'm', random.Next(10) == 0 ? random.Next(200_000) : random.Next(50))
                };
                sent.Add(((PacketKind)random.Next(1, 5), head.Method));
                writer.Append(sent[^1].Kind, head);
            }

            var got = new List<(PacketKind, string)>();
            for (var left = writer.Packets; left.Length > 0;)
            {
                var count = Math.Min(Math.Min(random.Next(1, 20_000), left.Length), reader.Free.Length);
                left[..count].CopyTo(reader.Free);
                reader.Received(count);
                left = left[count..];
                while (reader.TryTake(out var kind))
                    got.Add((kind, LocalCallHeader.Parser.ParseFrom(reader.PayloadAsReadOnlySequence()).Method));
            }

            Assert.Equal(sent, got);
        }
    }

    [Fact]
    public void Packets_of_usual_size_allocate_nothing()
    {
        var (writer, reader) = (new PacketWriter(), new PacketReader(1 << 20));
        var head = new LocalCallHeader { Method = Ioctl };
        var before = 0L;
        for (var round = -100; round < 1000; round++)
        {
            if (round == 0) before = GC.GetAllocatedBytesForCurrentThread();
            writer.Clear();
            writer.Append(PacketKind.Message, head);
            writer.Append(PacketKind.Status, null);
            writer.Packets.CopyTo(reader.Free);
            reader.Received(writer.Packets.Length);
            while (reader.TryTake(out _))
            {
            }
        }

        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    [Fact]
    public async Task Who_sends_on_and_on_behind_a_pin_that_waits_is_refused_and_its_pin_given_up()
    {
        var (machine, space) = await daemon.CreateParkingAsync(At);
        using var caller = new RawCaller(Calls);
        var batch = new PinBatch { Sequence = 1, AddressSpace = space, Operations = { Pin(1) } };
        caller.Send([.. RawCaller.Head(PinStream), .. RawCaller.Packet(PacketKind.Message, batch.ToByteArray())]);
        while (daemon.MachineOf(machine).ParkedPins().Count == 0) await Task.Yield();
        batch.Session = new string('s', 60_000);
        var more = RawCaller.Packet(PacketKind.Message, batch.ToByteArray());
        var limit = new DaemonLimits().MessageBytesMax;
        for (var sent = 0; sent <= limit; sent += more.Length) caller.Send(more);
        Assert.Equal(StatusCode.ResourceExhausted, (StatusCode)caller.Status().Code);
        while (daemon.MachineOf(machine).Statistics().Vectors > 0) await Task.Yield();
        Assert.Empty(daemon.MachineOf(machine).ParkedPins());
    }

    [Fact]
    public async Task A_connection_that_breaks_takes_its_call_with_it()
    {
        var (machine, space) = await daemon.CreateParkingAsync(At);
        using (var caller = new RawCaller(Calls))
        {
            var batch = new PinBatch { Sequence = 1, AddressSpace = space, Operations = { Pin(1) } };
            caller.Send([.. RawCaller.Head(PinStream), .. RawCaller.Packet(PacketKind.Message, batch.ToByteArray())]);
            while (daemon.MachineOf(machine).ParkedPins().Count == 0) await Task.Yield();
        }

        while (daemon.MachineOf(machine).Statistics().Vectors > 0) await Task.Yield();
        Assert.Empty(daemon.MachineOf(machine).ParkedPins());
    }

    [Fact]
    public async Task More_connections_than_allowed_are_refused_and_room_is_made_by_each_that_ends()
    {
        await using var small = new StoppableDaemon(new DaemonLimits { LocalConnectionsMax = 2 });
        await small.StartAsync();
        var held = new[] { new RawCaller(small.Calls), new RawCaller(small.Calls) };
        foreach (var caller in held)
            Assert.Equal(0, caller.Ask(Ioctl, new IoctlRequest { File = "machines/default/driverFiles/1" }));
        using (var third = new RawCaller(small.Calls))
            Assert.Equal(StatusCode.ResourceExhausted,
                (StatusCode)third.Ask(Ioctl, new IoctlRequest { File = "machines/default/driverFiles/1" }));
        held[0].Dispose();
        int code;
        do
        {
            using var next = new RawCaller(small.Calls);
            code = next.Ask(Ioctl, new IoctlRequest { File = "machines/default/driverFiles/1" });
        }
        while ((StatusCode)code == StatusCode.ResourceExhausted);
        Assert.Equal(0, code);
        Assert.Equal(0, held[1].Ask(Ioctl, new IoctlRequest { File = "machines/default/driverFiles/1" }));
        held[1].Dispose();
    }

    [Fact]
    public async Task Who_does_not_read_its_answers_holds_up_no_driver()
    {
        // Longer than the test: a driver's thread that waited for this client would wait for good.
        await using var own = new StoppableDaemon(new DaemonLimits { LocalPatience = TimeSpan.FromHours(1) });
        await own.StartAsync();
        using var client = FramePinClient.Connect(own.Endpoint);
        await using var driver = await SilentDriver.StartAsync(client);
        using (var caller = new RawCaller(own.Calls))
        {
            // The fourth answer finds no room in the socket's buffer, of some 200 KB.
            for (var i = 0; i < 4; i++)
            {
                caller.Send(
                    [.. RawCaller.Head(Ioctl), .. RawCaller.Packet(PacketKind.Message, driver.Request.ToByteArray())]);
                await driver.AnswerAsync(await driver.NextAsync(), Errno.None, new byte[60_000]);
                // The answer of another client's call comes behind it.
                var call = client.Drivers.IoctlAsync(driver.Request).ResponseAsync;
                await driver.AnswerAsync(await driver.NextAsync(), Errno.EAGAIN);
                Assert.Equal((uint)Errno.EAGAIN, (await call.WaitAsync(Patience)).Errno);
                while (i < 3 && caller.Available < (i + 1) * 60_000) await Task.Yield();
            }
        }
    }

    [Fact]
    public async Task A_driver_that_does_not_read_its_calls_holds_up_no_caller()
    {
        await using var own = new StoppableDaemon(
            new DaemonLimits { LocalPatience = TimeSpan.FromHours(1), LocalConnectionsMax = 3 });
        await own.StartAsync();
        using var client = FramePinClient.Connect(own.Endpoint, options => options.IsLocal = false);
        using var driver = new RawCaller(own.Calls);
        var register = new DriverReply
        {
            Register = new RegisterDriver
            {
                Machine = "machines/default",
                Node = "deaf",
                Driver = "deaf"
            }
        };
        driver.Send(
            [.. RawCaller.Head("/framepin.v1.DriverService/ServeDriver"),
                .. RawCaller.Packet(PacketKind.Message, register.ToByteArray())]);
        driver.Message(DriverCall.Parser);
        var opening = client.Drivers.OpenDriverFileAsync(
            new OpenDriverFileRequest { Driver = "machines/default/drivers/deaf" }).ResponseAsync;
        var answer = new DriverReply { Answer = new DriverAnswer { Call = driver.Message(DriverCall.Parser).Call } };
        driver.Send(RawCaller.Packet(PacketKind.Message, answer.ToByteArray()));
        var request = new IoctlRequest
        {
            File = (await opening).File,
            Command = "X",
            Argument = ByteString.CopyFrom(new byte[1_000_000])
        };
        using (var caller = new RawCaller(own.Calls))
        {
            caller.Send([.. RawCaller.Head(Ioctl), .. RawCaller.Packet(PacketKind.Message, request.ToByteArray())]);
            while (driver.Available == 0) await Task.Yield();
        }

        // The caller's thread is free to notice that it is gone: there is room for two more.
        using var second = new RawCaller(own.Calls);
        var gone = new IoctlRequest { File = "machines/default/driverFiles/999" };
        Assert.Equal(0, second.Ask(Ioctl, gone));
        await Task.Run(() =>
        {
            int code;
            do
            {
                using var third = new RawCaller(own.Calls);
                code = third.Ask(Ioctl, gone);
            }
            while ((StatusCode)code == StatusCode.ResourceExhausted);
            Assert.Equal(0, code);
        }).WaitAsync(Patience);
    }

    [Fact]
    public async Task A_daemon_that_stops_ends_streams_by_a_status_and_takes_its_socket_away()
    {
        await using var own = new StoppableDaemon(new DaemonLimits());
        await own.StartAsync();
        using var client = FramePinClient.Connect(own.Endpoint);
        await using var driver = await SilentDriver.StartAsync(client);
        var call = client.Drivers.IoctlAsync(driver.Request).ResponseAsync;
        await driver.NextAsync();
        using var idle = client.Pinning.PinStream();
        var space = (await client.AddressSpaces.CreateAddressSpaceAsync(new CreateAddressSpaceRequest())).Name;
        await idle.RequestStream.WriteAsync(new PinBatch { Sequence = 1, AddressSpace = space });
        Assert.True(await idle.ResponseStream.MoveNext(CancellationToken.None).WaitAsync(Patience));
        var next = idle.ResponseStream.MoveNext(CancellationToken.None);
        await own.StopAsync().WaitAsync(Patience);
        var refusal = await Assert.ThrowsAsync<RpcException>(() => driver.Ended.WaitAsync(Patience));
        Assert.Equal((StatusCode.Unavailable, "the daemon is ending"), (refusal.StatusCode, refusal.Status.Detail));
        refusal = await Assert.ThrowsAsync<RpcException>(() => next.WaitAsync(Patience));
        Assert.Equal((StatusCode.Unavailable, "the daemon is ending"), (refusal.StatusCode, refusal.Status.Detail));
        await Task.WhenAny(call).WaitAsync(Patience);
        Assert.False(File.Exists(own.Calls));
    }

    [Fact]
    public async Task A_client_goes_on_with_a_daemon_that_was_started_anew()
    {
        await using var first = new StoppableDaemon(new DaemonLimits());
        await first.StartAsync();
        using var client = FramePinClient.Connect(first.Endpoint);
        var request = new IoctlRequest { File = "machines/default/driverFiles/1" };
        Assert.Equal((uint)Errno.ENODEV, (await client.Drivers.IoctlAsync(request)).Errno);
        await first.StopAsync().WaitAsync(Patience);
        await using var second = new StoppableDaemon(new DaemonLimits(), first.Path);
        await second.StartAsync();
        Assert.Equal((uint)Errno.ENODEV, (await client.Drivers.IoctlAsync(request)).Errno);
    }

    private static PinOperation Pin(ulong pages) =>
        new() { Pin = new PinRange { Start = At, Pages = pages, Write = true, WithFrames = true } };

    /// <summary>What is answered, or refused with which details; the numbers of vectors are left out.</summary>
    private static async Task<string> TellAsync(Func<Task<string>> call)
    {
        try
        {
            return await call();
        }
        catch (RpcException refusal)
        {
            var status = refusal.GetRpcStatus();
            return $"{refusal.StatusCode} {refusal.Status.Detail} {status?.GetDetail<Google.Rpc.ErrorInfo>()} {status}";
        }
    }

    private static async Task<string> AskAsync(FramePinClient client, PinBatch batch)
    {
        using var stream = client.Pinning.PinStream();
        await stream.RequestStream.WriteAsync(batch);
        await stream.ResponseStream.MoveNext(CancellationToken.None).WaitAsync(Patience);
        var result = stream.ResponseStream.Current;
        foreach (var answer in result.Results.Where(answer => answer.FrameVector != 0))
        {
            await stream.RequestStream.WriteAsync(
                new PinBatch
                {
                    Sequence = 2,
                    AddressSpace = batch.AddressSpace,
                    Operations = { new PinOperation { Unpin = answer.FrameVector } }
                });
            await stream.ResponseStream.MoveNext(CancellationToken.None).WaitAsync(Patience);
            answer.FrameVector = 1;
        }

        return result.ToString();
    }
}

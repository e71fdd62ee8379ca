using System.Diagnostics;
using System.Net.Sockets;
using System.Runtime.CompilerServices;
using FramePin.Client;
using FramePin.Server;
using FramePin.Server.Configuration;
using FramePin.Server.LocalMemory;
using FramePin.V1;
using Grpc.Core;
using Microsoft.AspNetCore.Builder;
using Microsoft.Extensions.DependencyInjection;
using Xunit;
using File = System.IO.File;

namespace FramePin.Tests.Integration;

/// <summary>A machine's memory in another process: who gets it, what they may do with it, and when it ends.</summary>
public sealed class LocalMemoryTests(ITestOutputHelper output) : IAsyncLifetime
{
    private const ulong At = 0x10_0000;
    private const uint Group = 65533;
    private const int Other = 65534;

    private readonly string _folder = Directory.CreateTempSubdirectory("framepin-local-").FullName;
    private WebApplication? _app;
    private FramePinClient _client = null!;
    private string _space = "";

    private string AttachSocket => Path.Combine(_folder, "attach.sock");

    public async ValueTask InitializeAsync()
    {
        var socket = Path.Combine(_folder, "grpc.sock");
        _app = Daemon.Build(
            new DaemonOptions { SocketPath = socket, AttachSocketPath = AttachSocket, AttachGroup = Group });
        await _app.StartAsync();
        _client = FramePinClient.Connect($"unix:{socket}");
        _space = (await _client.AddressSpaces.CreateAddressSpaceAsync(new CreateAddressSpaceRequest())).Name;
        var map = new MemoryCall { Mmap = new MmapCall { Address = At, Length = 64 * 4096, Prot = 3, Flags = 0x32 } };
        await _client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = _space, Call = map });
    }

    public async ValueTask DisposeAsync()
    {
        _client.Dispose();
        await _app!.StopAsync();
        await _app.DisposeAsync();
        Assert.False(File.Exists(AttachSocket), "the attach socket outlives the daemon");
        Directory.Delete(_folder, recursive: true);
    }

    [Fact]
    public async Task Frames_are_shared_and_not_copied()
    {
        using var machine = await LocalMachine.AttachAsync(_client, "machines/default");
        var pin = await Pin(16);
        using (var frames = await machine.MapAsync(pin.FrameVector))
        {
            Assert.Equal(16UL * 4096, frames.Length);
            for (var page = 0; page < 16; page++) frames.Bytes[(page * 4096) + 5] = (byte)(page + 1);
            // The application reads what the device wrote, and the device what the application stores, at once.
            Assert.Equal(Enumerable.Range(1, 16), await Bytes(5));
            await new RemoteFrameMemory(_client).WriteAsync(_space, At + (3 * 4096), new byte[] { 77 });
            Assert.Equal(77, frames.Bytes[3 * 4096]);
        }

        // The same through the interface that a driver is written against.
        var memory = (IFrameMemory)machine;
        await memory.WriteAsync(pin.FrameVector, 4096, new byte[] { 1, 2, 3 });
        var seen = new byte[3];
        Assert.Equal(3, await new RemoteFrameMemory(_client).ReadAsync(pin.FrameVector, 4096, seen));
        Assert.Equal([1, 2, 3], seen);
        Assert.Equal(3, await memory.ReadAsync(pin.FrameVector, (16 * 4096) - 3, new byte[8]));
        machine.Forget(pin.FrameVector);
        await Unpin(pin);
    }

    [Fact]
    public async Task Consecutive_frames_are_looked_at_in_the_whole_memory_and_scattered_ones_in_a_row_that_is_kept()
    {
        var machine = await LocalMachine.AttachAsync(_client, "machines/default");
        // Two processes that touch their pages in turn get every other frame.
        var other = (await _client.AddressSpaces.CreateAddressSpaceAsync(new CreateAddressSpaceRequest())).Name;
        var map = new MemoryCall { Mmap = new MmapCall { Address = At, Length = 32 * 4096, Prot = 3, Flags = 0x32 } };
        await _client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = other, Call = map });
        var mine = await Pin(32);
        for (var page = 0UL; page < 32; page++)
            foreach (var space in new[] { _space, other })
            {
                var touch =
                    new MemoryCall
                    {
                        Touch = new TouchCall
                        {
                            Address = At
                        + ((space == other ? page : 32 + page) * 4096),
                            Pages = 1,
                            Write = true
                        }
                    };
                await _client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = space, Call = touch });
            }

        var scattered = await _client.Pinning.PinAsync(
            new PinRequest { AddressSpace = other, Start = At, Pages = 32, Write = true });
        Assert.Equal((1, 32), (mine.Runs.FirstPfns.Count, scattered.Runs.FirstPfns.Count));
        var frames = await machine.MapAsync(mine.FrameVector);
        using (var second = await machine.MapAsync(mine.FrameVector))
        using (var reading = await machine.MapAsync(mine.FrameVector, isWritable: false))
        {
            Assert.Equal(Place(frames), Place(second));
            // Not to be written, and so a mapping of its own.
            Assert.NotEqual(Place(frames), Place(reading));
            frames.Bytes[1] = 7;
            Assert.Equal((7, 7), (second.Bytes[1], reading.Bytes[1]));
        }

        var row = await machine.MapAsync(scattered.FrameVector);
        foreach (var (space, mapped) in new[] { (_space, frames), (other, row) })
        {
            for (var page = 0; page < 32; page++) mapped.Bytes[page * 4096] = (byte)(page + 1);
            var seen = new byte[32 * 4096];
            await new RemoteFrameMemory(_client).ReadAsync(space, At, seen);
            Assert.Equal(Enumerable.Range(1, 32), Enumerable.Range(0, 32).Select(page => (int)seen[page * 4096]));
        }

        // Given up and wanted again: the same mapping, and what others stored meanwhile.
        var place = Place(row);
        row.Dispose();
        await new RemoteFrameMemory(_client).WriteAsync(other, At + (5 * 4096), new byte[] { 99 });
        using (var again = await machine.MapAsync(scattered.FrameVector))
        {
            Assert.Equal((place, 99), (Place(again), again.Bytes[5 * 4096]));
        }

        // A mapping in use outlives the attachment, and ends for good when it is given up.
        machine.Dispose();
        frames.Bytes[0] = 1;
        frames.Dispose();
        Assert.Throws<ObjectDisposedException>(() => frames.Bytes[0]);
        await Unpin(mine);
        await Unpin(scattered);

        static nint Place(MappedFrames mapped) => Unsafe.ByteOffset(ref Unsafe.NullRef<byte>(), ref mapped.Bytes[0]);
    }

    [Fact]
    public async Task A_vector_that_a_pin_is_filling_cannot_be_mapped()
    {
        using var machine = await LocalMachine.AttachAsync(_client, "machines/default");
        var rule = new FaultRule { Point = ChoicePoint.Fault, Action = FaultAction.Park, Times = 1 };
        await _client.Machines.AddFaultRulesAsync(
            new AddFaultRulesRequest { Machine = "machines/default", Rules = { rule } });
        var vector = await _client.Pinning.CreateFrameVectorAsync(
            new CreateFrameVectorRequest { Parent = "machines/default", Frames = 1 });
        var filling = _client.Pinning.GetVaddrFramesAsync(
            new GetVaddrFramesRequest
            {
                FrameVector = vector.Name,
                AddressSpace = _space,
                Start = At + (40 * 4096),
                Pages = 1,
                Write = true
            });
        var resume = new ResumePinsRequest { Machine = "machines/default" };
        // Parked, and so in the middle of it, as soon as somebody else finds it busy.
        while (true)
        {
            var other = new PutVaddrFramesRequest { FrameVector = vector.Name };
            try
            {
                await _client.Pinning.PutVaddrFramesAsync(other);
            }
            catch (RpcException exception) when (FramePinException.From(exception).Reason == "PIN_IN_PROGRESS")
            {
                break;
            }
        }

        var refused = await Assert.ThrowsAsync<FramePinException>(() => machine.MapAsync(vector.Name));
        Assert.Equal("PIN_IN_PROGRESS", refused.Reason);
        while ((await _client.Pinning.ResumePinsAsync(resume)).Resumed == 0) await Task.Yield();
        Assert.Equal(1UL, (await filling).Frames);
        (await machine.MapAsync(vector.Name)).Dispose();
        await _client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = vector.Name });
    }

    [Fact]
    public async Task What_was_attached_for_reading_cannot_be_written()
    {
        using var machine = await LocalMachine.AttachAsync(_client, "machines/default", isReadOnly: true);
        var pin = await Pin(1);
        using var frames = await machine.MapAsync(pin.FrameVector);
        await new RemoteFrameMemory(_client).WriteAsync(_space, At, new byte[] { 9 });
        Assert.Equal(9, frames.Bytes[0]);
        await Assert.ThrowsAsync<UnauthorizedAccessException>(
            () => machine.WriteAsync(pin.FrameVector, 0, new byte[] { 1 }));
        await Unpin(pin);
    }

    [Fact]
    public async Task A_frame_that_is_still_mapped_is_given_to_nobody_until_it_is_unmapped()
    {
        using var machine = await LocalMachine.AttachAsync(_client, "machines/default");
        var pin = await Pin(8);
        var first = pin.Runs.FirstPfns[0];
        var frames = await machine.MapAsync(pin.FrameVector);
        frames.Bytes.Fill(7);
        await Unpin(pin);
        await Discard();
        Assert.Equal(8UL, (await Statistics()).QuarantinedFrames);
        // The allocator gives out first what was given back last: without the hold these would be the same frames.
        var others = await Pin(64);
        Assert.DoesNotContain(first, others.Runs.FirstPfns.SelectMany(
            (pfn, run) => Range(pfn, others.Runs.Counts.Count == 0 ? 1 : others.Runs.Counts[run])));
        frames.Bytes.Fill(8);
        var seen = new byte[64 * 4096];
        await new RemoteFrameMemory(_client).ReadAsync(others.FrameVector, 0, seen);
        Assert.DoesNotContain((byte)8, seen);
        frames.Dispose();
        Assert.Equal(0UL, (await Statistics()).QuarantinedFrames);
        await Unpin(others);
        await Discard();
        // Free again, and zeroed for the next one.
        var again = await Pin(64);
        Assert.Contains(first, again.Runs.FirstPfns.SelectMany(
            (pfn, run) => Range(pfn, again.Runs.Counts.Count == 0 ? 1 : again.Runs.Counts[run])));
        await new RemoteFrameMemory(_client).ReadAsync(again.FrameVector, 0, seen);
        Assert.DoesNotContain((byte)8, seen);
        await Unpin(again);
    }

    [Fact]
    public async Task Who_closes_the_connection_and_keeps_a_mapping_keeps_its_frames_from_others_too()
    {
        var machine = await LocalMachine.AttachAsync(_client, "machines/default");
        var pin = await Pin(8);
        var frames = await machine.MapAsync(pin.FrameVector);
        await Unpin(pin);
        await Discard();
        Assert.Equal(8UL, (await Statistics()).QuarantinedFrames);
        machine.Dispose();
        var attachments = _app!.Services.GetRequiredService<Attachments>();
        // This process lives: its store is harmless, and seen by nobody.
        frames.Bytes.Fill(9);
        Assert.Equal((1, 8UL), (attachments.Count, (await Statistics()).QuarantinedFrames));
        frames.Dispose();
        while (attachments.Count > 0) await Task.Yield();
        Assert.Equal(0UL, (await Statistics()).QuarantinedFrames);
    }

    [Theory]
    [InlineData(QuarantinePolicy.Fence)]
    [InlineData(QuarantinePolicy.Kill)]
    public async Task Past_the_bound_who_holds_the_most_is_fenced_or_killed(QuarantinePolicy policy)
    {
        if (!File.Exists("/usr/bin/python3"))
        {
            output.WriteLine("not compared: the holder is a process in python3, which is not here");
            return;
        }

        var spec = new MachineSpec
        {
            Profile = "6.18",
            MemoryBytes = 64 << 20,
            QuarantineBytesMax = 16 * 4096,
            QuarantinePolicy = policy
        };
        var machine = await _client.Machines.CreateMachineAsync(new CreateMachineRequest { Spec = spec });
        Assert.Equal((16UL * 4096, policy), (machine.Spec.QuarantineBytesMax, machine.Spec.QuarantinePolicy));
        var space = await _client.AddressSpaces.CreateAddressSpaceAsync(
            new CreateAddressSpaceRequest { Parent = machine.Name });
        var map = new MemoryCall { Mmap = new MmapCall { Address = At, Length = 32 * 4096, Prot = 3, Flags = 0x32 } };
        await _client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = space.Name, Call = map });
        var ticket = await _client.Memory.AttachMemoryAsync(new AttachMemoryRequest { Parent = machine.Name });
        using var holder = StartHolder(ticket);
        Assert.Equal("attached", await holder.StandardOutput.ReadLineAsync());
        var held = await _client.Memory.MapSpaceAsync(new MapSpaceRequest
        {
            Attachment = ticket.Attachment,
            AddressSpace = space.Name,
            Start = At,
            Pages = 32,
            Write = true,
        });
        Assert.Equal(32UL, held.Runs.Counts.Aggregate(0UL, (sum, count) => sum + count));
        var half = new MemoryCall { Munmap = new MunmapCall { Address = At, Length = 16 * 4096 } };
        await _client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = space.Name, Call = half });
        Assert.Equal(16UL, (await Statistics(machine.Name)).QuarantinedFrames);
        var rest = new MemoryCall { Munmap = new MunmapCall { Address = At + (16 * 4096), Length = 16 * 4096 } };
        await _client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = space.Name, Call = rest });
        while ((await Statistics(machine.Name)).QuarantinedFrames > 0) await Task.Yield();
        // The fenced one learns it by the end of its connection; the other by its own end.
        Assert.Equal(policy == QuarantinePolicy.Fence ? "fenced" : null, await holder.StandardOutput.ReadLineAsync());
        await holder.WaitForExitAsync();
        Assert.Equal(policy == QuarantinePolicy.Fence ? 0 : 137, holder.ExitCode);
        await _client.Machines.DeleteMachineAsync(new DeleteMachineRequest { Name = machine.Name });
    }

    [Fact]
    public async Task What_a_dead_process_had_mapped_is_free_again()
    {
        if (!File.Exists("/usr/bin/python3"))
        {
            output.WriteLine("not compared: the process that dies is one in python3, which is not here");
            return;
        }

        var ticket = await _client.Memory.AttachMemoryAsync(new AttachMemoryRequest());
        using var holder = StartHolder(ticket);
        Assert.Equal("attached", await holder.StandardOutput.ReadLineAsync());
        await _client.Memory.MapSpaceAsync(
            new MapSpaceRequest
            {
                Attachment = ticket.Attachment,
                AddressSpace = _space,
                Start = At,
                Pages = 8,
                Write = true
            });
        await Discard();
        Assert.Equal(8UL, (await Statistics()).QuarantinedFrames);
        holder.Kill();
        while ((await Statistics()).QuarantinedFrames > 0) await Task.Yield();
        Assert.Equal(0, _app!.Services.GetRequiredService<Attachments>().Count);
    }

    /// <summary>A process that attaches, keeps what it gets, and says when its connection has ended.</summary>
    private static Process StartHolder(AttachMemoryResponse ticket)
    {
        var script = $"""
            import socket
            s = socket.socket(socket.AF_UNIX)
            s.connect("{ticket.SocketPath}")
            s.sendall(bytes.fromhex("{Convert.ToHexString(ticket.Ticket.Span)}"))
            data, control, flags, address = s.recvmsg(512, socket.CMSG_SPACE(4))
            print("attached" if data[0] == 0 else data, flush=True)
            s.recv(1)
            print("fenced", flush=True)
            """;
        var start = new ProcessStartInfo("/usr/bin/python3") { RedirectStandardOutput = true };
        start.ArgumentList.Add("-c");
        start.ArgumentList.Add(script);
        return Process.Start(start)!;
    }

    [Fact]
    public async Task A_ticket_is_good_once()
    {
        var ticket = await _client.Memory.AttachMemoryAsync(new AttachMemoryRequest());
        Assert.Equal(0, Knock(ticket.Ticket.Span, out _));
        Assert.Equal(1, Knock(ticket.Ticket.Span, out var reason));
        Assert.Contains("ticket", reason, StringComparison.Ordinal);
        Assert.Equal(1, Knock(new byte[32], out _));
    }

    [Fact]
    public async Task The_attachment_ends_with_its_lease_and_with_its_process()
    {
        var attachments = _app!.Services.GetRequiredService<Attachments>();
        var lease = await _client.Leases.OpenLeaseAsync(new OpenLeaseRequest { Owner = "test" });
        using var machine = await LocalMachine.AttachAsync(_client, "machines/default", lease.Name);
        var other = await LocalMachine.AttachAsync(_client, "machines/default");
        while (attachments.Count != 2) await Task.Yield();
        await _client.Leases.CloseLeaseAsync(new CloseLeaseRequest { Name = lease.Name });
        while (attachments.Count != 1) await Task.Yield();
        other.Dispose();
        while (attachments.Count != 0) await Task.Yield();
    }

    /// <summary>
    /// With real users: a member of the group gets memory that is read-only to them for good, a stranger gets a
    /// sentence.
    /// </summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Another_user_attaches_by_group_or_not_at_all(bool isMember)
    {
        if (!Environment.IsPrivilegedProcess || !File.Exists("/usr/bin/python3") || !File.Exists("/usr/bin/setpriv"))
        {
            output.WriteLine("not compared: becoming another user takes root, setpriv and python3");
            return;
        }

        if (OperatingSystem.IsLinux()) File.SetUnixFileMode(_folder, (UnixFileMode)0b111_101_101);
        var ticket = await _client.Memory.AttachMemoryAsync(new AttachMemoryRequest { ReadOnly = true });
        var script = $$"""
            import array, mmap, os, socket
            s = socket.socket(socket.AF_UNIX)
            s.connect("{{AttachSocket}}")
            s.sendall(bytes.fromhex("{{Convert.ToHexString(ticket.Ticket.Span)}}"))
            data, control, flags, address = s.recvmsg(512, socket.CMSG_SPACE(4))
            print(data[0], len(control))
            if data[0] != 0:
                print(data[1:].decode() + s.recv(512).decode())
                raise SystemExit
            fd = array.array("i", control[0][2])[0]
            try:
                mmap.mmap(fd, 4096, prot=mmap.PROT_WRITE)
                print("mapped writable")
            except PermissionError:
                print("not writable")
            try:
                os.open("/proc/self/fd/%d" % fd, os.O_RDWR)
                print("opened anew")
            except PermissionError:
                print("not opened anew")
            try:
                os.ftruncate(fd, 0)
                print("truncated")
            except OSError:
                print("not truncated")
            """;
        var start = new ProcessStartInfo(
            "/usr/bin/setpriv")
        { RedirectStandardOutput = true, RedirectStandardError = true };
        string[] arguments =
            [$"--reuid={Other}", $"--regid={Other}", isMember
                ? $"--groups={Group}"
                : "--clear-groups", "/usr/bin/python3", "-c", script];
        foreach (var argument in arguments) start.ArgumentList.Add(argument);
        using var process = Process.Start(start)!;
        var text = await process.StandardOutput.ReadToEndAsync(TestContext.Current.CancellationToken);
        var errors = await process.StandardError.ReadToEndAsync(TestContext.Current.CancellationToken);
        await process.WaitForExitAsync(TestContext.Current.CancellationToken);
        Assert.Equal("", errors);
        if (isMember) Assert.Equal("0 1\nnot writable\nnot opened anew\nnot truncated\n", text);
        else Assert.Matches(@"^1 0\nuser 65534 is not in the group", text);
    }

    private byte Knock(ReadOnlySpan<byte> ticket, out string reason)
    {
        using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        socket.Connect(new UnixDomainSocketEndPoint(AttachSocket));
        socket.Send(ticket);
        var answer = new byte[512];
        var length = socket.Receive(answer);
        reason = System.Text.Encoding.UTF8.GetString(answer, 1, Math.Max(0, length - 1));
        return answer[0];
    }

    private async Task<PinResponse> Pin(ulong pages) =>
        await _client.Pinning.PinAsync(
            new PinRequest { AddressSpace = _space, Start = At, Pages = pages, Write = true });

    private async Task Unpin(PinResponse pin)
    {
        await _client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = pin.FrameVector, Dirty = true });
        Assert.Empty((await _client.Machines.AuditMachineAsync(new AuditMachineRequest())).Findings);
    }

    private async Task Discard()
    {
        var discard = new MemoryCall { Madvise = new MadviseCall { Address = At, Length = 64 * 4096, Advice = 4 } };
        Assert.Equal(0U,
            (await _client.AddressSpaces.CallAsync(new CallRequest { AddressSpace = _space, Call = discard })).Errno);
    }

    private async Task<MachineStatistics> Statistics(string machine = "") =>
        (await _client.Machines.GetMachineAsync(new GetMachineRequest { Name = machine })).Statistics;

    private static IEnumerable<ulong> Range(ulong first, ulong count) =>
        Enumerable.Range(0, (int)count).Select(i => first + (ulong)i);

    private async Task<IEnumerable<int>> Bytes(int offset)
    {
        var all = new byte[16 * 4096];
        await new RemoteFrameMemory(_client).ReadAsync(_space, At, all);
        return Enumerable.Range(0, 16).Select(page => (int)all[(page * 4096) + offset]);
    }
}

using System.Diagnostics;
using System.Globalization;
using FramePin.Client;
using FramePin.V1;
using Google.Protobuf;
using Grpc.Core;
using Xunit;

namespace FramePin.Tests.Integration;

/// <summary>
/// Limits hold at every door (faults V6, V9, V11, V12): whichever call reaches a thing, it meets the same rule.
/// </summary>
public sealed class OneDoorTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private const ulong FileBytesMax = 1UL << 46;

    public static TheoryData<string> Texts =>
        ["a\nb", "a\rb", "\u001b[31mred", "a\u0000b", "bell\a", "\u009b1m", "\u202egnp", "a\u2028b",
            "\U000E0041", "a\U0001D173b"];

    [Theory]
    [InlineData(1UL << 46)]
    [InlineData(1UL << 47)]
    [InlineData(1UL << 51)]
    [InlineData(ulong.MaxValue)]
    [InlineData((1UL << 46) - 1)]
    public async Task V11_a_write_behind_what_a_file_may_have_is_EFBIG_and_touches_nothing(ulong position)
    {
        var (machine, _) = await daemon.CreateAsync();
        var file = await daemon.Client.Files.CreateFileAsync(
            new CreateFileRequest { Parent = machine, Kind = FileKind.Shmem, SizeBytes = 4096 });
        using var write = daemon.Client.Memory.WriteMemory();
        var target = new MemoryTarget { Name = file.Name, Position = position };
        await write.RequestStream.WriteAsync(
            new WriteMemoryRequest { Target = target, Data = ByteString.CopyFrom(7, 7) });
        await write.RequestStream.CompleteAsync();
        // A write that reaches over the end is cut there, as pwrite is.
        if (position < FileBytesMax) Assert.Equal(1UL, (await write.ResponseAsync).Written);
        else
        {
            var refusal = FramePinException.From(
                await Assert.ThrowsAsync<RpcException>(() => write.ResponseAsync));
            // Offsets are signed (loff_t): those from 2^63 on are negative.
            Assert.Equal(position <= long.MaxValue ? "EFBIG" : "EINVAL", refusal.Reason);
        }

        var first = new byte[1];
        await new RemoteFrameMemory(daemon.Client).ReadAsync(file.Name, 0, first);
        Assert.Equal(0, first[0]);
        Assert.Empty((await daemon.Client.Machines.AuditMachineAsync(
            new AuditMachineRequest { Name = machine })).Findings);
    }

    [Theory]
    [MemberData(nameof(Texts))]
    public async Task V12_a_text_that_others_are_shown_holds_no_control_character(string text)
    {
        var (machine, _) = await daemon.CreateAsync();
        var client = daemon.Client;
        await RefusedAsync("path", async () => await client.Devices.CreateDeviceAsync(
            new CreateDeviceRequest { Parent = machine, Mapping = DeviceMapping.Pfnmap, Pages = 1, Path = text }));
        await RefusedAsync("path", async () => await client.Files.CreateFileAsync(
            new CreateFileRequest { Parent = machine, Kind = FileKind.Shmem, Path = text }));
        await RefusedAsync("device", async () => await client.Files.CreateFileAsync(
            new CreateFileRequest { Parent = machine, Kind = FileKind.Shmem, Device = text }));
        await RefusedAsync("owner", async () => await client.Leases.OpenLeaseAsync(
            new OpenLeaseRequest { Parent = machine, Owner = text }));
        await RefusedAsync("register.driver", async () =>
        {
            using var serve = client.Drivers.ServeDriver();
            await serve.RequestStream.WriteAsync(new DriverReply
            {
                Register = new RegisterDriver { Machine = machine, Node = "video0", Driver = text },
            });
            return await serve.ResponseStream.MoveNext(default);
        });
    }

    [Fact]
    public async Task V9_a_lock_on_a_received_descriptor_keeps_nobody_from_attaching()
    {
        var (machine, _) = await daemon.CreateAsync();
        using var first = await LocalMachine.AttachAsync(daemon.Client, machine, isReadOnly: true);
        // flock(1) locks its own copy of the open file, which is what an attached process has.
        var start = new ProcessStartInfo("flock", ["-x", MemoryOf(machine), "cat"])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        };
        using var holder = Process.Start(start)!;
        await holder.StandardInput.WriteLineAsync("locked");
        await holder.StandardInput.FlushAsync(TestContext.Current.CancellationToken);
        Assert.Equal("locked", await holder.StandardOutput.ReadLineAsync(TestContext.Current.CancellationToken));
        using (await LocalMachine.AttachAsync(daemon.Client, machine))
        using (await LocalMachine.AttachAsync(daemon.Client, machine, isReadOnly: true))
        {
        }

        holder.StandardInput.Close();
        await holder.WaitForExitAsync(TestContext.Current.CancellationToken);
    }

    /// <summary>V9: a read lease on the memory and a change of its mode, which any holder may make, stop nobody.
    /// </summary>
    [Fact]
    public async Task V9_a_lease_on_a_received_descriptor_and_a_change_of_mode_keep_nobody_from_attaching()
    {
        const string script = """
            import fcntl, os, sys
            memory = os.open(sys.argv[1], os.O_RDONLY)
            try:
                fcntl.fcntl(memory, fcntl.F_SETLEASE, fcntl.F_RDLCK)
                print("leased", end=", ")
            except OSError as refusal:
                print(refusal, end=", ")
            os.fchmod(memory, 0)
            print("mode 0", flush=True)
            sys.stdin.read()
            """;
        var (machine, _) = await daemon.CreateAsync();
        using var first = await LocalMachine.AttachAsync(daemon.Client, machine, isReadOnly: true);
        var start = new ProcessStartInfo("/usr/bin/python3", ["-c", script, MemoryOf(machine)])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
        };
        using var holder = Process.Start(start)!;
        var done = await holder.StandardOutput.ReadLineAsync(TestContext.Current.CancellationToken);
        TestContext.Current.TestOutputHelper?.WriteLine(done ?? "");
        Assert.EndsWith("mode 0", done, StringComparison.Ordinal);
        using (await LocalMachine.AttachAsync(daemon.Client, machine))
        using (await LocalMachine.AttachAsync(daemon.Client, machine, isReadOnly: true))
        {
        }

        holder.StandardInput.Close();
        await holder.WaitForExitAsync(TestContext.Current.CancellationToken);
    }

    /// <summary>A path by which another process of this user opens the memory of a machine.</summary>
    private static string MemoryOf(string machine)
    {
        var number = Directory.GetFiles("/proc/self/fd").Select(Path.GetFileName).First(
            name => new FileInfo($"/proc/self/fd/{name}").LinkTarget?.Contains(
                $"memfd:framepin-{machine["machines/".Length..]}", StringComparison.Ordinal) == true);
        return $"/proc/{Environment.ProcessId}/fd/{number}";
    }

    /// <summary>
    /// A refusal repeats what the request said, and its headers stay within what clients take, whatever was said.
    /// </summary>
    [Theory]
    [InlineData("x")]
    [InlineData("\U0001F600")]
    public async Task V12_a_refusal_of_a_long_name_is_short(string letter)
    {
        const int clientsTake = 8 << 10;
        var longest = string.Concat(Enumerable.Repeat(letter, 30_000));
        var (machine, space) = await daemon.CreateAsync();
        var client = daemon.Client;
        foreach (var call in (Func<Task>[])
        [
            async () => await client.Machines.GetMachineAsync(new GetMachineRequest { Name = $"machines/{longest}" }),
            async () => await client.AddressSpaces.GetAddressSpaceAsync(
                new GetAddressSpaceRequest { Name = $"{machine}/addressSpaces/{longest}" }),
            async () => await client.AddressSpaces.InstallMappingsAsync(new InstallMappingsRequest
            {
                AddressSpace = space,
                Mappings = { new InstalledMapping { Start = At, End = At + 4096, VmFlags = { longest } } },
            }),
            async () => await client.Pinning.UnpinAsync(
                new UnpinRequest { FrameVector = $"{machine}/frameVectors/{longest}" }),
        ])
        {
            var thrown = await Assert.ThrowsAsync<RpcException>(call);
            var refusal = FramePinException.From(thrown);
            Assert.NotEmpty(refusal.Reason);
            Assert.InRange(thrown.Status.Detail.Length, 1, 400);
            Assert.InRange(thrown.Trailers.Sum(entry => entry.IsBinary ? entry.ValueBytes.Length : entry.Value.Length),
                1, clientsTake);
        }
    }

    /// <summary>V12: the number of a device is two columns of maps, and no other text.</summary>
    [Theory]
    [InlineData("00:01 7 /etc/passwd", false)]
    [InlineData(" ", false)]
    [InlineData("-", false)]
    [InlineData("0001", false)]
    [InlineData("FE:01", false)]
    [InlineData("fe:01", true)]
    [InlineData("103:00005", true)]
    public async Task V12_the_number_of_a_device_is_a_number(string text, bool isNumber)
    {
        var (machine, _) = await daemon.CreateAsync();
        var request = new CreateFileRequest { Parent = machine, Kind = FileKind.Shmem, Device = text };
        if (isNumber) Assert.Equal(text, (await daemon.Client.Files.CreateFileAsync(request)).Device);
        else await RefusedAsync("device", async () => await daemon.Client.Files.CreateFileAsync(request));
    }

    private static async Task RefusedAsync<T>(string field, Func<Task<T>> call)
    {
        var refusal = FramePinException.From(await Assert.ThrowsAsync<RpcException>(call));
        Assert.Equal((StatusCode.InvalidArgument, "BAD_FIELD"), (refusal.StatusCode, refusal.Reason));
        Assert.Equal(field, refusal.Metadata["field"]);
    }
}

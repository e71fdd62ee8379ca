using System.Globalization;
using FramePin.Client;
using FramePin.V1;
using Grpc.Core;
using Xunit;
using Machine = FramePin.Core.Machines.Machine;

namespace FramePin.Tests.Integration;

/// <summary>
/// Bad input: mostly well-formed requests on live resources with one or two bad fields, some that are no messages at
/// all. Every refusal carries an ErrorInfo and leaves the machine's digest as it was.
/// </summary>
public sealed class FuzzTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const int Requests = 20_000;
    private const int BadBytesEvery = 8;
    private const ulong At = 0x10_0000;

    private static readonly ulong[] Odd =
    [
        0, 1, 0x10_0001, 0x10_0800, 0x7fff_ffff_f000, 0xffff_8000_0000_0000, ulong.MaxValue, ulong.MaxValue - 0xfff,
        1UL << 63,
        1UL << 47, unchecked((ulong)-1L), unchecked((ulong)-4096L), 134_217_728, uint.MaxValue,
    ];

    private static readonly Marshaller<byte[]> Bytes = new(bytes => bytes, bytes => bytes);

    [Fact]
    public async Task Twenty_thousand_requests_are_answered_clearly_and_refusals_change_nothing()
    {
        var seed = (int)(DateTime.UtcNow.Ticks & 0x7fffffff);
        if (Environment.GetEnvironmentVariable("FRAMEPIN_SEED") is { Length: > 0 } given)
            seed = int.Parse(given, CultureInfo.InvariantCulture);
        TestContext.Current.TestOutputHelper?.WriteLine($"seed {seed}: set FRAMEPIN_SEED to repeat");
        var random = new Random(seed);
        var (machineName, space) = await daemon.CreateAsync(memoryBytes: 4UL << 20);
        var machine = daemon.MachineOf(machineName);
        await daemon.MapAsync(space, At, 32);
        var file = (await daemon.Client.Files.CreateFileAsync(
            new CreateFileRequest { Parent = machineName, Kind = FileKind.Shmem, SizeBytes = 0x8000 })).Name;
        // The first pin attempt marks the address space for ever, refused or not (the mm has-pinned flag): have it
        // behind us.
        var first = await daemon.Client.Pinning.PinAsync(
            new PinRequest { AddressSpace = space, Start = At, Pages = 1 });
        await daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = first.FrameVector });
        var vectors = new List<string>();
        var outcomes = new SortedDictionary<string, int>(StringComparer.Ordinal);
        var (wellFormed, refused) = (0, 0);
        var digest = machine.Digest();
        for (var i = 0; i < Requests; i++)
        {
            var isBytes = i % BadBytesEvery == 0;
            if (!isBytes) wellFormed++;
            var bad = isBytes ? 0 : random.Next(20) switch { < 2 => 0, < 14 => 1, _ => 2 };
            string what;
            try
            {
                what = isBytes
                    ? await SendBytes(random)
                    : await SendRequest(random, bad, machineName, space, file, vectors);
            }
            catch (RpcException exception)
            {
                var refusal = FramePinException.From(exception);
                Assert.True(
                    exception.StatusCode is not (StatusCode.Internal or StatusCode.Unknown or StatusCode.Unavailable),
                    $"seed {seed}, request {i}: {exception.Status}");
                Assert.True(
                    exception.GetRpcStatus()?.GetDetail<Google.Rpc.ErrorInfo>() is { Domain: "framepin.dev" },
                    $"seed {seed}, request {i}: {exception.Status} without ErrorInfo");
                refused++;
                what = $"refused {refusal.StatusCode} {refusal.Reason}";
                var after = machine.Digest();
                Assert.True(after == digest, $"seed {seed}, request {i}: {exception.Status} changed the machine");
                digest = after;
                outcomes[what] = outcomes.GetValueOrDefault(what) + 1;
                continue;
            }

            digest = machine.Digest();
            var findings = machine.Audit();
            Assert.True(findings.Count == 0, $"seed {seed}, request {i}, {what}: {string.Join("; ", findings)}");
            outcomes[what] = outcomes.GetValueOrDefault(what) + 1;
        }

        foreach (var (what, count) in outcomes) TestContext.Current.TestOutputHelper?.WriteLine($"{count,6}  {what}");
        TestContext.Current.TestOutputHelper?.WriteLine(
            $"{Requests} requests, {wellFormed} well formed, {refused} refused, none of which changed the digest");
        Assert.True(wellFormed >= Requests * 8 / 10);
        Assert.True(refused > Requests / 3);
        foreach (var vector in vectors)
            await daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = vector });
        Assert.Empty(machine.Audit());
        Assert.Equal(machine.PinStatistics.Acquired, machine.PinStatistics.Released);
    }

    /// <summary>No message, or not one of this method: random bytes, broken UTF-8, too long, half-closed.</summary>
    private async Task<string> SendBytes(Random random)
    {
        var options = new CallOptions(deadline: DateTime.UtcNow.AddSeconds(20));
        if (random.Next(4) == 0)
        {
            // A stream that is closed before it says what it wants.
            using var write = daemon.Client.Memory.WriteMemory(options);
            await write.RequestStream.CompleteAsync();
            await write;
            return "half-closed stream accepted";
        }

        var content = new byte[random.Next(1, 64)];
        random.NextBytes(content);
        switch (random.Next(3))
        {
            case 0:
                // Field 1 (address_space), a string that is no UTF-8.
                content = [0x0a, 0x04, 0xff, 0xfe, 0xc0, 0x80];
                break;
            case 1 when random.Next(40) == 0:
                content = new byte[(4 << 20) + 1];
                break;
        }

        var method = new Method<byte[], byte[]>(
            MethodType.Unary, "framepin.v1.PinningService", random.Next(9) == 0 ? "Nonsense" : "Pin", Bytes, Bytes);
        using var call = daemon.Client.Invoker.AsyncUnaryCall(method, null, options, content);
        await call;
        return "random bytes accepted";
    }

    private async Task<string> SendRequest(
        Random random, int bad, string machine, string space, string file, List<string> vectors)
    {
        var spoil = new Spoiler(random, bad, Odd);
        var client = daemon.Client;
        var page = (ulong)random.Next(40) * 4096;
        string part;
        switch (random.Next(12))
        {
            case 0:
                if (vectors.Count >= 64) goto case 1;
                var pin = await client.Pinning.PinAsync(new PinRequest
                {
                    AddressSpace = spoil.Name(space),
                    Start = spoil.Number(At + page),
                    Pages = spoil.Number((ulong)random.Next(1, 9)),
                    Write = random.Next(2) == 0,
                    AllOrNothing = random.Next(2) == 0,
                });
                vectors.Add(pin.FrameVector);
                return "Pin";
            case 1:
                if (vectors.Count == 0) goto case 0;
                var index = random.Next(vectors.Count);
                var name = spoil.Name(vectors[index]);
                await client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = name, Dirty = random.Next(2) == 0 });
                vectors.Remove(name);
                return "Unpin";
            case 2:
                if (vectors.Count == 0) goto case 0;
                await client.Pinning.ConvertAsync(new ConvertRequest
                {
                    FrameVector = spoil.Name(vectors[random.Next(vectors.Count)]),
                    To = (FrameKind)spoil.Small(random.Next(2, 4)),
                });
                return "Convert";
            case 3:
                part = await Call(
                    space,
                    new MemoryCall
                    {
                        Munmap = new MunmapCall
                        {
                            Address = spoil.Number(0x900_0000 + page),
                            Length = spoil.Number(4096)
                        }
                    }, spoil);
                return "munmap" + part;
            case 4:
                part = await Call(space, new MemoryCall
                {
                    Mmap = new MmapCall
                    {
                        Address = spoil.Number(0x900_0000 + page),
                        Length = spoil.Number(4096),
                        Prot = 3,
                        Flags = (uint)spoil.Small(random.Next(2) == 0 ? 0x32 : 0x11),
                        Target = spoil.Name(file),
                        Offset = spoil.Number(0),
                    },
                }, spoil);
                return "mmap" + part;
            case 5:
                part = await Call(
                    space,
                    new MemoryCall
                    {
                        Mprotect = new MprotectCall
                        {
                            Address = spoil.Number(At + page),
                            Length = spoil.Number(8192),
                            Prot = (uint)spoil.Small(3)
                        }
                    }, spoil);
                return "mprotect" + part;
            case 6:
                part = await Call(
                    space,
                    new MemoryCall
                    {
                        Madvise = new MadviseCall
                        {
                            Address = spoil.Number(At + page),
                            Length = spoil.Number(4096),
                            Advice = spoil.Small(4)
                        }
                    }, spoil);
                return "madvise" + part;
            case 7:
                part = await Call(space, new MemoryCall
                {
                    Mremap = new MremapCall
                    {
                        Address = spoil.Number(At + page),
                        OldLength = spoil.Number(4096),
                        NewLength = spoil.Number(4096),
                        Flags = (uint)spoil.Small(1)
                    },
                }, spoil);
                return "mremap" + part;
            case 8:
                part = await Call(
                    space,
                    new MemoryCall
                    {
                        Touch = new TouchCall
                        {
                            Address = spoil.Number(At + page),
                            Pages = (uint)spoil.Number(2),
                            Write = true
                        }
                    }, spoil);
                return "touch" + part;
            case 9:
                await client.Files.TruncateFileAsync(
                    new TruncateFileRequest { Name = spoil.Name(file), SizeBytes = spoil.Number(0x8000) });
                return "truncate";
            case 10:
                if (vectors.Count == 0) goto case 0;
                await client.Pinning.GetPagesAsync(
                    new GetPagesRequest
                    {
                        FrameVector = spoil.Name(vectors[random.Next(vectors.Count)]),
                        First = spoil.Number(0),
                        Count = (uint)spoil.Number(4)
                    });
                return "GetPages";
            default:
                await client.Devices.CreateDeviceAsync(new CreateDeviceRequest
                {
                    Parent = spoil.Name(machine),
                    Mapping = (DeviceMapping)spoil.Small(1),
                    Pages = random.Next(2) == 0 ? 0 : spoil.Number(1_000_000),
                    Ram = false,
                });
                return "CreateDevice";
        }
    }

    private async Task<string> Call(string space, MemoryCall call, Spoiler spoil)
    {
        var response = await daemon.Client.AddressSpaces.CallAsync(
            new CallRequest { AddressSpace = spoil.Name(space), Call = call });
        return response.Errno == 0 ? "" : " in part, as Linux keeps it";
    }

    /// <summary>Hands values through, but spoils as many of them as it was told to.</summary>
    private sealed class Spoiler(Random random, int bad, ulong[] odd)
    {
        private int _left = bad;

        private bool Spoils => _left > 0 && random.Next(3) == 0 && _left-- > 0;

        public ulong Number(ulong good) => Spoils ? odd[random.Next(odd.Length)] : good;

        public int Small(int good) => Spoils ? random.Next(2) == 0 ? random.Next(-5, 200) : int.MinValue : good;

        public string Name(string good) => !Spoils ? good : random.Next(5) switch
        {
            0 => good + "x",
            1 => "machines/none/addressSpaces/none",
            2 => new string('a', 300),
            3 => "",
            _ => "\u0000/\u202e",
        };
    }
}

using System.Collections.Concurrent;
using System.Globalization;
using FramePin.Client;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.V1;
using Xunit;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// Random calls on a vivid node, by two files that are closed and opened again: ioctls, read, write, poll, and DQBUF
/// with little time. Each is answered with an errno that V4L2 knows, no call ends by a bug of the driver (D1), and at
/// the end nothing is left pinned.
/// </summary>
public sealed class QueueFuzzTests(DaemonFixture daemon, ITestOutputHelper output) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private const uint Size = 230_400;
    private const int Pages = 57;
    private static readonly string[] Injections =
        ["inject_queue_setup_error", "inject_buf_prepare_error", "inject_start_streaming_error", "inject_dqbuf_error",
            "inject_fatal_error"];

    private static readonly Errno[] Known =
        [Errno.None, Errno.EINVAL, Errno.EBUSY, Errno.EFAULT, Errno.EAGAIN, Errno.EIO, Errno.ENOBUFS, Errno.ENOTTY];

    [Theory]
    [InlineData("6.1", false)]
    [InlineData("6.12", false)]
    [InlineData("6.12", true)]
    public async Task Random_ioctls_are_answered_and_leave_nothing(string profile, bool isOutput)
    {
        const int steps = 3000;
        var seed = int.TryParse(Environment.GetEnvironmentVariable("FRAMEPIN_SEED"), CultureInfo.InvariantCulture,
            out var given) ? given : Random.Shared.Next();
        output.WriteLine($"seed {seed}; FRAMEPIN_SEED={seed} repeats it");
        var random = new Random(seed);
        await using var rig = await VividRig.CreateAsync(
            daemon, profile, new VividOptions { IsOutput = isOutput, FramesPerSecond = 0 });
        await rig.Device.SetFormatAsync("YUYV", 320, 360);
        for (var i = 0UL; i < 4; i++) rig.Lab.Anon(At + (i * 0x10_0000), Pages);
        var bugs = new ConcurrentQueue<Exception>();
        rig.Driver.BugFound = bugs.Enqueue;
        V4l2Device[] files =
            [await rig.OpenAsync("video0", rig.SpaceName), await rig.OpenAsync("video0", rig.SpaceName)];
        var exported = new List<string>();
        var seen = new SortedDictionary<string, int>(StringComparer.Ordinal);
        // Longer where the other file owned the queue for so long that nothing came to stream.
        bool HasStreamed() =>
            seen.ContainsKey("QBUF None") && seen.ContainsKey("DQBUF None") && seen.ContainsKey("STREAMON None")
            && seen.Keys.Any(line => line is "read None" or "read EAGAIN" or "write None");
        for (var step = 0; step < steps || (step < 10 * steps && !HasStreamed()); step++)
        {
            var which = random.Next(8) == 0 ? 1 : 0;
            var (what, errno) = random.Next(40) == 0
                ? await ReopenAsync(rig, files, which)
                : await StepAsync(files[which], rig, random, exported).WaitAsync(TimeSpan.FromSeconds(30));
            Assert.Contains(errno, Known);
            Assert.Empty(bugs);
            var line = $"{what} {errno}";
            seen[line] = seen.GetValueOrDefault(line) + 1;
        }

        foreach (var file in files) await file.DisposeAsync();
        foreach (var name in exported) await daemon.Client.Pinning.UnpinAsync(new UnpinRequest { FrameVector = name });
        output.WriteLine(string.Join(", ", seen.Select(pair => $"{pair.Value} {pair.Key}")));
        Assert.True(HasStreamed());
    }

    /// <summary>A file that read() or write() has taken the queue for gives it up when it is closed.</summary>
    private static async Task<(string What, Errno Errno)> ReopenAsync(VividRig rig, V4l2Device[] files, int which)
    {
        await files[which].DisposeAsync();
        files[which] = await rig.OpenAsync("video0", rig.SpaceName);
        return ("close", Errno.None);
    }

    private static async Task<(string What, Errno Errno)> StepAsync(
        V4l2Device device, VividRig rig, Random random, List<string> exported)
    {
        var memory = random.Next(10) switch
        {
            0 => 77U,
            1 => (uint)Vb2Memory.Mmap,
            2 => (uint)Vb2Memory.DmaBuf,
            _ => (uint)Vb2Memory.UserPtr
        };
        var index = (uint)random.Next(6);
        switch (random.Next(30))
        {
            case 24 when random.Next(2) == 0:
                return await TransferAsync(device, rig, random);
            case 26:
                var asked = (PollEvents)random.Next(8);
                var time = random.Next(2) == 0 ? TimeSpan.Zero : TimeSpan.FromMilliseconds(1);
                return ("poll", (await device.PollAsync(asked, time)).Errno);
            case 27:
                return await HurriedAsync(device, memory, random);
            case 0 or 1:
                return ("REQBUFS", (await device.RequestBuffersAsync((uint)random.Next(6), memory)).Errno);
            case 2:
                var format = (await device.GetFormatAsync()).Format;
                if (random.Next(4) == 0) format.Planes[0].SizeImage--;
                return ("CREATE_BUFS",
                    (await device.IoctlAsync(V4l2.CreateBuffers,
                    new V4l2CreateBuffers { Count = (uint)random.Next(4), Memory = memory, Format = format })).Errno);
            case 3:
                return ("REMOVE_BUFS",
                    (await device.IoctlAsync(V4l2.RemoveBuffers,
                    new V4l2RemoveBuffers { Index = index, Count = (uint)random.Next(3), Type = device.Type })).Errno);
            case 4 or 5 or 6:
                return ("STREAMON", await device.StreamOnAsync());
            case 7:
                return ("STREAMOFF", await device.StreamOffAsync());
            case 8:
                return ("PREPARE_BUF", (await device.PrepareAsync(Buffer(index, memory, random))).Errno);
            case 9:
                return ("QUERYBUF", (await device.QueryAsync(index)).Errno);
            case 10:
                var (errno, export) = await device.ExportAsync(index);
                if (errno == Errno.None) exported.Add(export.DmaBuf);
                return ("EXPBUF", errno);
            case 11:
                var (failed, address) = await device.File.MapAsync(
                    rig.SpaceName, Size, 3, (uint)random.Next(1, 3), index << 15);
                if (failed == Errno.None && random.Next(2) == 0) rig.Machine.Munmap(rig.Lab.Space, address, Size);
                return ("mmap", failed);
            case 12 when random.Next(4) == 0:
                return ("inject", await device.SetControlAsync(Injections[random.Next(Injections.Length)], 1));
            case 13:
                return ("S_FMT", (await device.SetFormatAsync("YUYV", 320, 360)).Errno);
            case < 18:
                return ("DQBUF", (await device.DequeueAsync(memory, isNonBlocking: true)).Errno);
            default:
                return ("QBUF", (await device.QueueAsync(Buffer(index, memory, random))).Errno);
        }
    }

    private static async Task<(string What, Errno Errno)> TransferAsync(
        V4l2Device device, VividRig rig, Random random)
    {
        var address = random.Next(8) == 0 ? 0x5000_0000 : At;
        var length = random.Next(3) switch { 0 => 10UL, 1 => Size, _ => Size + 10UL };
        return random.Next(2) == 0
            ? ("read", (await device.File.ReadAsync(rig.SpaceName, address, length, isNonBlocking: true)).Errno)
            : ("write", (await device.File.WriteAsync(rig.SpaceName, address, length, isNonBlocking: true)).Errno);
    }

    /// <summary>A DQBUF whose signal may come before a frame, behind it, or with it.</summary>
    private static async Task<(string What, Errno Errno)> HurriedAsync(V4l2Device device, uint memory, Random random)
    {
        using var signal = new CancellationTokenSource(TimeSpan.FromMilliseconds(1 + (random.NextDouble() * 2)));
        try
        {
            return ("DQBUF hurried", (await device.DequeueAsync(memory, cancellationToken: signal.Token)).Errno);
        }
        catch (OperationCanceledException)
        {
            return ("DQBUF given up", Errno.None);
        }
    }

    private static V4l2Buffer Buffer(uint index, uint memory, Random random) => new()
    {
        Index = index,
        Memory = memory,
        Planes =
        {
            new V4l2Plane
            {
                UserPointer = random.Next(8) switch { 0 => 0, 1 => 0x5000_0000, 2 => At + 4096,
                    var place => At + ((ulong)(place & 3) * 0x10_0000) },
                Length = random.Next(8) switch { 0 => 0, 1 => Size - 1, 2 => Pages * 4096, 3 => (Pages + 1) * 4096,
                    _ => Size },
                BytesUsed = random.Next(6) == 0 ? Size + 1 : 0,
            },
        },
    };
}

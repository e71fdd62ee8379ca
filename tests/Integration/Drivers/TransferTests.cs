using System.Globalization;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.Tests.Support;
using Xunit;
using Errno = FramePin.Drivers.Errno;
using FileKind = FramePin.Core.Backing.FileKind;
using MemoryFile = FramePin.Core.Backing.MemoryFile;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// A device writes all the while as the application's mappings are pulled away under it: what it writes lands in the
/// frames that it pinned, and in nobody else's. The moments come from a seed that is printed.
/// </summary>
public sealed class TransferTests(DaemonFixture daemon, ITestOutputHelper output) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private const ulong Step = 0x100_0000;
    private const ulong Victims = 0x7000_0000;
    private const int Buffers = 4;
    private const int Pages = 57;
    private const int VictimPages = 128;
    private const uint Size = 230_400;
    private const uint UserPtr = (uint)Vb2Memory.UserPtr;
    private const byte Mark = 0xee;
    private const Prot Rw = Prot.Read | Prot.Write;

    [Theory]
    [InlineData("6.1")]
    [InlineData("6.18")]
    public async Task Bytes_never_land_in_somebody_elses_frame(string profile)
    {
        const int rounds = 2000;
        var seed = int.TryParse(Environment.GetEnvironmentVariable("FRAMEPIN_SEED"), CultureInfo.InvariantCulture,
            out var given) ? given : Random.Shared.Next();
        output.WriteLine($"seed {seed}; FRAMEPIN_SEED={seed} repeats it");
        var random = new Random(seed);
        await using var rig = await VividRig.CreateAsync(daemon, profile, new VividOptions { FramesPerSecond = 0 });
        var device = rig.Device;
        await device.SetFormatAsync("YUYV", 320, 360);
        await device.RequestBuffersAsync(Buffers, UserPtr);
        var files = new MemoryFile?[Buffers];
        for (var i = 0; i < Buffers; i++)
        {
            Remap(rig, files, i, random);
            await QueueAsync(rig, files, (uint)i, random);
        }

        Assert.Equal(Errno.None, await device.StreamOnAsync());
        var (moved, done) = (0, new SortedDictionary<string, int>(StringComparer.Ordinal));
        for (var round = 0; round < rounds; round++)
        {
            var what = Disturb(rig, files, random.Next(Buffers), random);
            done[what] = done.GetValueOrDefault(what) + 1;
            // The next area gets the frames that became free.
            rig.Lab.Anon(Victims, VictimPages, written: false);
            rig.Fill(Victims, VictimPages, Mark);
            // The device writes on, into every buffer.
            for (var i = 0; i < Buffers; i++)
            {
                var (errno, buffer) = await device.DequeueAsync(UserPtr).WaitAsync(TimeSpan.FromSeconds(20));
                Assert.Equal(Errno.None, errno);
                if (await QueueAsync(rig, files, buffer.Index, random)) moved++;
            }

            Assert.True(IsAll(rig, Victims, VictimPages, Mark),
                $"round {round}: after {what} the device wrote into another's memory");
            rig.Machine.Munmap(rig.Lab.Space, Victims, VictimPages * Lab.Page);
        }

        Assert.Equal(Errno.None, await device.StreamOffAsync());
        await device.RequestBuffersAsync(0, UserPtr);
        output.WriteLine(
            $"{rounds} rounds, {rig.Driver.Frames} frames, {moved} buffers moved: "
            + string.Join(", ", done.Select(pair => $"{pair.Value} {pair.Key}")));
    }

    /// <summary>
    /// Queues a buffer: where it was, or at its other place; where nothing can be pinned any more, after mapping it
    /// anew.
    /// </summary>
    private static async Task<bool> QueueAsync(VividRig rig, MemoryFile?[] files, uint index, Random random)
    {
        var length = random.Next(4) == 0 ? Size + 4096 : Size;
        var (errno, _) = await rig.Device.QueueUserPtrAsync(index, At + (index * Step), length);
        if (errno == Errno.None) return false;
        Assert.Equal(Errno.EFAULT, errno);
        Remap(rig, files, (int)index, random);
        (errno, _) = await rig.Device.QueueUserPtrAsync(index, At + (index * Step), Size);
        Assert.Equal(Errno.None, errno);
        return true;
    }

    private static string Disturb(VividRig rig, MemoryFile?[] files, int which, Random random)
    {
        var (address, length) = (At + ((ulong)which * Step), (ulong)(Pages + 1) * Lab.Page);
        var space = rig.Lab.Space;
        switch (random.Next(7))
        {
            case 0:
                rig.Machine.Munmap(space, address, length);
                return "munmap";
            case 1:
                Remap(rig, files, which, random);
                return "mmap over it";
            case 2:
                rig.Machine.Madvise(space, address, length, Advice.DontNeed);
                return "MADV_DONTNEED";
            case 3:
                var child = rig.Machine.Fork(space, "child", out _)!;
                rig.Machine.Exit(child);
                return "fork";
            case 4 when files[which] is { } file:
                rig.Machine.Truncate(file, (ulong)random.Next(Pages) * Lab.Page);
                return "ftruncate";
            case 5 when files[which] is { } file:
                rig.Machine.PunchHole(file, 0, (ulong)random.Next(1, Pages) * Lab.Page);
                return "fallocate";
            case 6:
                rig.Machine.Mremap(
                    space, address, length, length, MremapFlags.MayMove | MremapFlags.Fixed, At + (20 * Step));
                rig.Machine.Munmap(space, At + (20 * Step), length);
                return "mremap";
            default:
                rig.Machine.Munmap(space, address + Lab.Page, Lab.Page);
                return "munmap of a page";
        }
    }

    private static void Remap(VividRig rig, MemoryFile?[] files, int which, Random random)
    {
        var address = At + ((ulong)which * Step);
        if (files[which] is { } old) rig.Machine.Unlink(old);
        files[which] = null;
        if (random.Next(2) == 0)
        {
            rig.Lab.Anon(address, Pages + 1, written: false);
            return;
        }

        var file = files[which] = rig.Machine.CreateFile("/memfd:buffer", FileKind.Shmem, (Pages + 1) * Lab.Page)!;
        rig.Lab.MapFile(address, Pages + 1, file, MapFlags.Shared, Rw);
    }

    private static bool IsAll(VividRig rig, ulong address, int pages, byte value)
    {
        var bytes = new byte[pages * 4096];
        return rig.Machine.Read(rig.Lab.Space, address, bytes, out _) == bytes.Length
            && !bytes.AsSpan().ContainsAnyExcept(value);
    }
}

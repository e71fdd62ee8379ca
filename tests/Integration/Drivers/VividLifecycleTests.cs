using System.Globalization;
using System.Text.RegularExpressions;
using FramePin.Client;
using FramePin.Core.Abi;
using FramePin.Core.Syscalls;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.Tests.Support;
using FramePin.V1;
using Xunit;
using Errno = FramePin.Drivers.Errno;
using File = System.IO.File;
using FileKind = FramePin.Core.Backing.FileKind;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// Events on kernels 6.1 and 6.12 around a queued buffer of the real vivid driver: munmap, fork, re-queue,
/// protocol errors, close, mprotect, MADV_DONTNEED, copy-on-write, an inherited file, seals and truncation. Each
/// section's text is made again and compared, but for frame numbers, of which only "the same" and "another" mean
/// something.
/// </summary>
public sealed partial class VividLifecycleTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private const ulong Step = 0x100_0000;
    private const uint UserPtr = (uint)Vb2Memory.UserPtr;
    private const uint Size = 230_400;
    private const int Pages = 57;
    private const Prot Rw = Prot.Read | Prot.Write;

    private static readonly Dictionary<string, Func<VividRig, Task<string>>> Sections = new(StringComparer.Ordinal)
    {
        ["D1"] = MunmapAsync,
        ["D2"] = ForkAsync,
        ["D3"] = RequeueAsync,
        ["D4"] = ProtocolAsync,
        ["D5"] = CloseAsync,
        ["D6"] = MprotectAsync,
        ["D7"] = DontNeedAsync,
        ["D8"] = ForkBeforeAsync,
        ["D9"] = InheritedFileAsync,
        ["D10"] = SamePointerAsync,
        ["D11"] = SealAndTruncateAsync,
    };

    public static TheoryData<string, string> Cases()
    {
        var cases = new TheoryData<string, string>();
        foreach (var profile in new[] { "6.1", "6.12" })
            foreach (var section in Recorded(profile).Keys) cases.Add(profile, section);
        return cases;
    }

    [Theory]
    [MemberData(nameof(Cases))]
    public async Task It_goes_as_it_went(string profile, string section)
    {
        await using var rig = await VividRig.CreateAsync(daemon, profile, new VividOptions { FramesPerSecond = 0 });
        await rig.Device.SetFormatAsync("YUYV", 320, 360);
        Assert.Equal(Anonymous(Recorded(profile)[section]), Anonymous(await Sections[section](rig)));
    }

    /// <summary>Frame numbers become letters in the order in which they appear.</summary>
    private static string Anonymous(string text)
    {
        var letters = new Dictionary<string, string>(StringComparer.Ordinal);
        return FrameNumber().Replace(text, match =>
        {
            if (!letters.TryGetValue(match.Value, out var letter))
                letters[match.Value] = letter = $"<{(char)('a' + letters.Count)}>";
            return letter;
        });
    }

    [GeneratedRegex(@"\b(?<=(pfn |pfn before |->|new |was |QBUF |old ))[0-9a-f]{4,5}\b")]
    private static partial Regex FrameNumber();

    private static SortedDictionary<string, string> Recorded(string profile)
    {
        var sections = new SortedDictionary<string, string>(StringComparer.Ordinal);
        var section = "";
        foreach (var line in File.ReadLines(
            Path.Combine(AppContext.BaseDirectory, "Data", "oracle", $"vivid-lifecycle-{profile}.txt")))
        {
            if (line.StartsWith("-- ", StringComparison.Ordinal)) sections[section = line.Split(' ')[1]] = "";
            else sections[section] += line.TrimEnd() + "\n";
        }

        return sections;
    }

    private static async Task<string> MunmapAsync(VividRig rig)
    {
        var begin = rig.Pins;
        await QueueTwoAsync(rig);
        rig.Machine.Munmap(rig.Lab.Space, At, Pages * Lab.Page);
        return $"   munmapped buf0: {await StreamAsync(rig)} | STREAMOFF {Text(await rig.Device.StreamOffAsync())} pin {Delta(begin, rig)}"
            + $" | REQBUFS0 {await FreeAsync(rig)} pin {Delta(begin, rig)}\n";
    }

    private static async Task<string> ForkAsync(VividRig rig)
    {
        await QueueTwoAsync(rig);
        var before = Frame(rig);
        var child = rig.Machine.Fork(rig.Lab.Space, "child", out _)!;
        var atFork = rig.Sum(At, child);
        var text = $"   after fork: {await StreamAsync(rig)}\n";
        text += $"   parent pfn {before}->{Frame(rig)} sum {rig.Sum(At)}; child pfn {Frame(rig, child)} (copied at fork),"
            + $" child sum right after fork {atFork}, after capture {rig.Sum(At, child)}\n";
        await StopAsync(rig);
        return text;
    }

    private static async Task<string> RequeueAsync(VividRig rig)
    {
        var device = rig.Device;
        rig.Lab.Anon(At + (2 * Step), Pages);
        rig.Lab.Anon(At + (3 * Step), Pages + 2);
        await QueueTwoAsync(rig);
        await device.StreamOnAsync();
        var text = $"   first {await DequeueAsync(rig)}\n";
        await DequeueAsync(rig);
        text += $"   re-QBUF same pointer same length: {await QueueAsync(rig, 0, At, Pages * 4096)} (cached mapping)\n";
        text += $"   re-QBUF idx1 different pointer: {await QueueAsync(rig, 1, At + (2 * Step), Size)}\n";
        await DequeueAsync(rig);
        await DequeueAsync(rig);
        text += $"   re-QBUF idx0 same pointer, length S-1: {await QueueAsync(rig, 0, At, Size - 1)}\n";
        text += $"   re-QBUF idx0 same pointer, longer length: {await QueueAsync(rig, 0, At, Size + 8)}\n";
        await DequeueAsync(rig);
        var old = Frame(rig, address: At + (2 * Step));
        rig.Machine.Munmap(rig.Lab.Space, At + (2 * Step), Pages * Lab.Page);
        rig.Lab.Anon(At + (2 * Step), Pages);
        var queued = await QueueAsync(rig, 1, At + (2 * Step), Size);
        var fresh = Frame(rig, address: At + (2 * Step));
        text += $"   munmap+mmap new memory at same address, re-QBUF idx1: {queued}; pfn old {old} new {fresh}; {await DequeueAsync(rig)};"
            + $" new memory sum {rig.Sum(At + (2 * Step))} (STALE: data went to the old pages)\n";
        text += $"   re-QBUF idx1 to a bad pointer: {await QueueAsync(rig, 1, 0x5000_0000, Size)}; then the good one again:"
            + $" {await QueueAsync(rig, 1, At + (2 * Step), Size)}\n";
        await StopAsync(rig);
        return text;
    }

    private static async Task<string> ProtocolAsync(VividRig rig)
    {
        var device = rig.Device;
        rig.Lab.Anon(At, Pages);
        var text =
            $"   QBUF before REQBUFS: {await OnlyErrnoAsync(rig, 0, At)} | STREAMON before REQBUFS: {Text(await device.StreamOnAsync())}"
            + $" | DQBUF before STREAMON: {await DequeueAsync(rig, "")}\n";
        text += $"   REQBUFS(2) -> {(await device.RequestBuffersAsync(2, UserPtr)).Answer.Count} | QBUF idx 7: {await OnlyErrnoAsync(rig, 7, At)}"
            + $" | QBUF idx0: {await OnlyErrnoAsync(rig, 0, At)} | QBUF idx0 again (queued): {await OnlyErrnoAsync(rig, 0, At)}"
            + $" | QBUF idx1 same pointer: {await OnlyErrnoAsync(rig, 1, At)}"
            + $" | QBUF memory=MMAP: {Text((await device.QueueAsync(new V4l2Buffer { Index = 1, Memory = (uint)Vb2Memory.Mmap })).Errno)}\n";
        text += $"   DQBUF before STREAMON (queued): {await DequeueAsync(rig, "")} | STREAMON {Text(await device.StreamOnAsync())}"
            + $" | STREAMON again {Text(await device.StreamOnAsync())} | REQBUFS(2) while streaming {Text((await device.RequestBuffersAsync(2, UserPtr)).Errno)}"
            + $" | REQBUFS(0) while streaming {await FreeAsync(rig)} | {await DequeueAsync(rig)} | {await DequeueAsync(rig)}"
            + $" | DQBUF nothing queued (O_NONBLOCK): {Text((await device.DequeueAsync(UserPtr, isNonBlocking: true)).Errno)}"
            + $" | STREAMOFF {Text(await device.StreamOffAsync())} | STREAMOFF again {Text(await device.StreamOffAsync())}"
            + $" | DQBUF after STREAMOFF: {await DequeueAsync(rig, "")} | REQBUFS0 {await FreeAsync(rig)}\n";
        var (_, few) = await device.RequestBuffersAsync(1, UserPtr);
        var (_, many) = await device.RequestBuffersAsync(100, UserPtr);
        text += $"   REQBUFS(1) -> {few.Count} | REQBUFS(100) -> {many.Count} | REQBUFS memory=77 {Text((await device.RequestBuffersAsync(2, 77)).Errno)}"
            + $" | OVERLAY {Text((await device.RequestBuffersAsync(2, 3)).Errno)} | caps 0x{many.Capabilities:x} (MMAP1 USERPTR2 DMABUF4 REQ8 ORPHAN10)\n";
        await using (var second = await rig.OpenAsync("video0", rig.SpaceName))
        {
            text += $"   second fd, other owner: REQBUFS {Text((await second.RequestBuffersAsync(2, UserPtr)).Errno)}"
                + $" | QBUF {Text((await second.QueueUserPtrAsync(0, At, Size)).Errno)}\n";
        }

        text += $"   PREPARE_BUF good: {await PrepareAsync(rig, 0, At)} | QBUF after PREPARE same ptr: {await QueueAsync(rig, 0, At, Size)}"
            + $" | PREPARE_BUF idx1 hole: {await PrepareAsync(rig, 1, 0x5000_0000)} | PREPARE NULL: {await PrepareAsync(rig, 1, 0)}\n";
        await FreeAsync(rig);
        var create = new V4l2CreateBuffers
        {
            Count = 2,
            Memory = UserPtr,
            Format = (await device.GetFormatAsync()).Format
        };
        var (errno, created) = await device.IoctlAsync(V4l2.CreateBuffers, create);
        text += $"   CREATE_BUFS USERPTR 2: {Text(errno)} count {created.Count} index {created.Index}\n";
        await FreeAsync(rig);
        return text;
    }

    private static async Task<string> CloseAsync(VividRig rig)
    {
        // A process that exits closes its file; what it queued is given back.
        var begin = rig.Pins;
        await using (var file = await rig.OpenAsync("video0", rig.SpaceName))
        {
            rig.Lab.Anon(At, Pages);
            rig.Lab.Anon(At + Step, Pages);
            await file.RequestBuffersAsync(2, UserPtr);
            await file.QueueUserPtrAsync(0, At, Size);
            await file.QueueUserPtrAsync(1, At + Step, Size);
            await file.StreamOnAsync();
        }

        var text = $"   exit while streaming: pin {Delta(begin, rig)}";
        begin = rig.Pins;
        await using (var file = await rig.OpenAsync("video0", rig.SpaceName))
        {
            await file.RequestBuffersAsync(2, UserPtr);
            await file.QueueUserPtrAsync(0, At, Size);
            text += $" | QBUF {Delta(begin, rig)}";
        }

        return text + $" | close: {Delta(begin, rig)}\n";
    }

    private static async Task<string> MprotectAsync(VividRig rig)
    {
        await QueueTwoAsync(rig);
        rig.Machine.Mprotect(rig.Lab.Space, At, Pages * Lab.Page, Prot.None);
        var text = $"   prot none: {await StreamAsync(rig)}";
        rig.Machine.Mprotect(rig.Lab.Space, At, Pages * Lab.Page, Rw);
        text += $" | sum after {rig.Sum(At)}\n";
        await StopAsync(rig);
        return text;
    }

    private static async Task<string> DontNeedAsync(VividRig rig)
    {
        await QueueTwoAsync(rig);
        var before = Frame(rig);
        rig.Machine.Madvise(rig.Lab.Space, At, Pages * Lab.Page, Advice.DontNeed);
        var text = $"   dontneed: {await StreamAsync(rig)} | user sum {rig.Sum(At)}";
        rig.Lab.Write(At, 1);
        text += $" pfn {Frame(rig)} (was {before}): data lost (went to the detached page)\n";
        await StopAsync(rig);
        return text;
    }

    private static async Task<string> ForkBeforeAsync(VividRig rig)
    {
        rig.Lab.Anon(At, Pages);
        rig.Lab.Anon(At + Step, Pages);
        var before = Frame(rig);
        var child = rig.Machine.Fork(rig.Lab.Space, "child", out _)!;
        await QueueTwoAsync(rig, maps: false);
        var text = $"   pfn before {before} after QBUF {Frame(rig)}\n   cow: {await StreamAsync(rig)}\n";
        text += $"   parent sum {rig.Sum(At)} pfn {Frame(rig)}; child sum {rig.Sum(At, child)} pfn {Frame(rig, child)}\n";
        await StopAsync(rig);
        return text;
    }

    private static async Task<string> InheritedFileAsync(VividRig rig)
    {
        rig.Lab.Anon(At, Pages);
        await rig.Device.RequestBuffersAsync(2, UserPtr);
        await rig.Device.QueueUserPtrAsync(1, At, Size);
        var child = await rig.Daemon.Client.AddressSpaces.ForkAddressSpaceAsync(
            new ForkAddressSpaceRequest { Name = rig.SpaceName });
        var space = rig.Daemon.SpaceOf(child.Name);
        const ulong own = 0x3000_0000;
        var mapped = rig.Machine.Mmap(space, new MmapRequest
        {
            Address = own,
            Length = Pages * Lab.Page,
            Prot = Rw,
            Flags = MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed,
        });
        Assert.True(mapped.IsOk);
        rig.Device.Space = child.Name;
        var text = $"   child QBUF own buffer: {Text((await rig.Device.QueueUserPtrAsync(0, own, Size)).Errno)}"
            + $" {await StreamAsync(rig, " ")}; child sum {rig.Sum(own, space)}\n";
        rig.Device.Space = rig.SpaceName;
        return text
            + $"   parent STREAMOFF {Text(await rig.Device.StreamOffAsync())} REQBUFS0 {await FreeAsync(rig)}\n";
    }

    private static async Task<string> SamePointerAsync(VividRig rig)
    {
        rig.Lab.Anon(At, Pages);
        await rig.Device.RequestBuffersAsync(2, UserPtr);
        var text =
            $"   QBUF0 {await QueueAsync(rig, 0, At, Size, "")} QBUF1 same ptr {await QueueAsync(rig, 1, At, Size, "")}   : {await StreamAsync(rig)}\n";
        await StopAsync(rig);
        return text;
    }

    private static async Task<string> SealAndTruncateAsync(VividRig rig)
    {
        var file = rig.Machine.CreateFile("/memfd:x", FileKind.Shmem, Pages * Lab.Page)!;
        rig.Lab.MapFile(At, Pages, file, MapFlags.Shared, Rw);
        rig.Lab.Anon(At + Step, Pages);
        await QueueTwoAsync(rig, maps: false);
        // No mapping stands in the way of the seal but the pins.
        rig.Machine.Munmap(rig.Lab.Space, At, Pages * Lab.Page);
        var text =
            $"   seal while pinned: {Text((Errno)rig.Machine.SealWrite(file))} | ftruncate(0): {Text((Errno)rig.Machine.Truncate(file, 0))}   : {await StreamAsync(rig)}";
        await StopAsync(rig);
        return text + $" | seal after release: {Text((Errno)rig.Machine.SealWrite(file))}\n";
    }

    private static async Task QueueTwoAsync(VividRig rig, bool maps = true)
    {
        if (maps)
        {
            rig.Lab.Anon(At, Pages);
            rig.Lab.Anon(At + Step, Pages);
        }

        await rig.Device.RequestBuffersAsync(2, UserPtr);
        Assert.Equal(Errno.None, (await rig.Device.QueueUserPtrAsync(0, At, Pages * 4096)).Errno);
        Assert.Equal(Errno.None, (await rig.Device.QueueUserPtrAsync(1, At + Step, Pages * 4096)).Errno);
    }

    private static async Task<string> StreamAsync(VividRig rig, string between = " | ") =>
        $"STREAMON {Text(await rig.Device.StreamOnAsync())}{between}{await DequeueAsync(rig)}{between}{await DequeueAsync(rig)}";

    private static async Task<string> DequeueAsync(VividRig rig, string name = "DQBUF ")
    {
        var (errno, buffer) = await rig.Device.DequeueAsync(UserPtr).WaitAsync(TimeSpan.FromSeconds(20));
        return errno == Errno.None
            ? $"{name}ok idx{buffer.Index} flags used{buffer.Planes[0].BytesUsed}"
            : $"{name}{errno}";
    }

    private static async Task<string> QueueAsync(
        VividRig rig, uint index, ulong address, uint length, string word = "pin ")
    {
        var before = rig.Pins;
        return $"{Text((await rig.Device.QueueUserPtrAsync(index, address, length)).Errno)} {word}{Delta(before, rig)}";
    }

    private static async Task<string> OnlyErrnoAsync(VividRig rig, uint index, ulong address) =>
        Text((await rig.Device.QueueUserPtrAsync(index, address, Size)).Errno);

    private static async Task<string> PrepareAsync(VividRig rig, uint index, ulong address)
    {
        var before = rig.Pins;
        var buffer = new V4l2Buffer
        {
            Index = index,
            Memory = UserPtr,
            Planes = { new V4l2Plane { UserPointer = address, Length = Size } }
        };
        var (errno, _) = await rig.Device.PrepareAsync(buffer);
        return errno == Errno.None ? $"ok pin {Delta(before, rig)}" : errno.ToString();
    }

    private static async Task StopAsync(VividRig rig)
    {
        await rig.Device.StreamOffAsync();
        await FreeAsync(rig);
    }

    private static async Task<string> FreeAsync(VividRig rig) =>
        Text((await rig.Device.RequestBuffersAsync(0, UserPtr)).Errno);

    private static string Frame(VividRig rig, FramePin.Core.Vmas.AddressSpace? space = null, ulong address = At) =>
        rig.Machine.Translate(space ?? rig.Lab.Space, address) is { } pfn
            ? pfn.Value.ToString("x4", CultureInfo.InvariantCulture)
            : "none";

    private static string Text(Errno errno) => errno == Errno.None ? "ok" : errno.ToString();

    private static string Delta((long Acquired, long Released) from, VividRig rig) =>
        string.Create(
            CultureInfo.InvariantCulture, $"+{rig.Pins.Acquired - from.Acquired}/-{rig.Pins.Released - from.Released}");
}

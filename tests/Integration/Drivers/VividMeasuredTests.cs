using System.Globalization;
using System.Text;
using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Machines;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;
using FramePin.Drivers;
using FramePin.Drivers.VideoBuf2;
using FramePin.Drivers.Vivid;
using FramePin.Tests.Support;
using Xunit;
using Errno = FramePin.Drivers.Errno;

namespace FramePin.Tests.Integration.Drivers;

/// <summary>
/// Answers of the real vivid driver on kernels 6.1 and 6.12 to queued buffers of all kinds of mapping: every
/// ioctl's errno, the pins taken and dropped, and the first bytes of the picture (Semantics 6.1, 6.2, 6.5).
/// Cells are compared as text.
/// </summary>
public sealed class VividMeasuredTests(DaemonFixture daemon) : IClassFixture<DaemonFixture>
{
    private const ulong At = 0x1000_0000;
    private const ulong Good = 0x2000_0000;
    private const ulong Huge = 0x4000_0000;
    private const uint UserPtr = (uint)Vb2Memory.UserPtr;
    private const Prot Rw = Prot.Read | Prot.Write;
    private const byte Written = 0x5a;
    private const byte OnDisk = (byte)'f';

    /// <summary>
    /// Rows by name: makes the mapping, and says what is queued. The picture has S bytes, in N pages.
    /// </summary>
    private static readonly Dictionary<string, Func<VividRig, uint, int, (ulong Address, uint Length)>> Recipes = new(
        StringComparer.Ordinal)
    {
        ["malloc anon (written)"] = (rig, size, pages) => Anon(rig, size, pages, fill: Written),
        ["anon mmap written"] = (rig, size, pages) => Anon(rig, size, pages, fill: Written),
        ["anon mmap untouched"] = (rig, size, pages) => Anon(rig, size, pages),
        ["memfd shared"] = (rig, size, pages) => (rig.Lab.File(At, pages, FileKind.Shmem, MapFlags.Shared, Rw), size),
        ["memfd private"] = (rig, size, pages) => (rig.Lab.File(At, pages, FileKind.Shmem, MapFlags.Private, Rw), size),
        ["ext4 file shared RW"] = (rig, size, pages) => (Disk(rig, pages, MapFlags.Shared, Rw), size),
        ["ext4 file private PROT_READ"] = (rig, size, pages) => (Disk(rig, pages, MapFlags.Private, Prot.Read), size),
        ["ext4 file shared PROT_READ, O_RDONLY fd"] = (rig, size, pages) =>
            (Disk(rig, pages, MapFlags.Shared, Prot.Read, openWrite: false), size),
        ["ext4 shared, past EOF after page 0"] = (rig, size, pages) =>
            (Disk(rig, pages, MapFlags.Shared, Rw, filePages: 1), size),
        ["anon PROT_READ untouched"] = (rig, size, pages) => (rig.Lab.Anon(At, pages, Prot.Read, written: false), size),
        ["anon PROT_NONE written"] = (rig, size, pages) => Protected(rig, size, pages),
        ["anon PROT_NONE untouched"] = (rig, size, pages) => (rig.Lab.Anon(At, pages, Prot.None, written: false), size),
        ["anon PROT_WRITE only"] = (rig, size, pages) => (rig.Lab.Anon(At, pages, Prot.Write, written: false), size),
        ["first page unmapped"] = (rig, size, pages) => Hole(rig, size, pages, 0, 1),
        ["last 2 pages unmapped"] = (rig, size, pages) => Hole(rig, size, pages, pages - 2, 2),
        ["whole range unmapped"] = (rig, size, pages) => Hole(rig, size, pages, 0, pages),
        ["NULL"] = (_, size, _) => (0, size),
        ["pointer 16"] = (_, size, _) => (16, size),
        ["kernel address"] = (_, size, _) => (0xffff_8880_0000_0000, size),
        ["non-canonical"] = (_, size, _) => (0x8000_0000_0000_0000, size),
        ["crosses TASK_SIZE"] = (_, size, _) => (PageGeometry.MapWindow - (3 * Lab.Page), size),
        ["misaligned +1"] = (rig, size, pages) => Shifted(rig, size, pages + 1, 1),
        ["misaligned +100"] = (rig, size, pages) => Shifted(rig, size, pages + 1, 100),
        ["misaligned, end fits exactly not"] = (rig, size, pages) =>
            Shifted(rig, size, pages, ((ulong)pages * Lab.Page) - size + 1),
        ["length S-1"] = (rig, size, pages) => (Anon(rig, size, pages).Address, size - 1),
        ["length 0"] = (rig, size, pages) => (Anon(rig, size, pages).Address, 0),
        ["length 1"] = (rig, size, pages) => (Anon(rig, size, pages).Address, 1),
        ["length S+5 pages, mapped"] = (rig, size, pages) => (Anon(rig, size, pages + 5).Address, size + (5 * 4096)),
        ["length S+5 pages, tail unmapped"] = (rig, size, pages) => (Anon(rig, size, pages).Address, size + (5 * 4096)),
        ["length 0xffffffff"] = (rig, size, pages) => (Anon(rig, size, 2 * pages).Address, 0xffff_ffff),
        ["spans anon + shared anon"] = (rig, size, pages) =>
        {
            rig.Lab.Anon(At, 8);
            rig.Lab.SharedAnon(At + (8 * Lab.Page), pages - 8);
            rig.Fill(At, pages, Written);
            return (At, size);
        },
        ["spans RW + PROT_READ + RW"] = (rig, size, pages) =>
        {
            Anon(rig, size, pages, Written);
            rig.Lab.Machine.Mprotect(rig.Lab.Space, At + (8 * Lab.Page), 8 * Lab.Page, Prot.Read);
            return (At, size);
        },
        ["spans anon + ext4 shared"] = (rig, size, pages) =>
        {
            Disk(rig, pages, MapFlags.Shared, Rw, content: Written);
            rig.Lab.Anon(At, 8);
            rig.Fill(At, 8, Written);
            return (At, size);
        },
        ["hugetlb anon"] = (rig, size, _) =>
        {
            rig.Lab.Map(Huge, 512, Rw, MapFlags.Private | MapFlags.Anonymous | MapFlags.HugeTlb | MapFlags.Fixed);
            return (Huge, size);
        },
        ["/dev/mem PFNMAP shared"] = (rig, size, pages) =>
            (rig.Lab.Device(At, pages, DeviceMapping.PfnMap, isRam: true), size),
        ["/dev/mem PFNMAP private"] = (rig, size, pages) =>
            (rig.Lab.Device(At, pages, DeviceMapping.PfnMap, isRam: true, isPrivate: true), size),
        ["[vvar]"] = (rig, size, _) =>
        {
            rig.Machine.InstallMapping(rig.Lab.Space, new InstalledMapping
            {
                Range = new AddressRange(At, At + (4 * Lab.Page)),
                Prot = Prot.Read,
                Kind = InstalledKind.Vvar,
            });
            return (At, size);
        },
        ["40 pages below [stack]"] = (rig, size, _) =>
        {
            rig.Lab.Map(Huge, 33, Rw, MapFlags.Private | MapFlags.Anonymous | MapFlags.GrowsDown | MapFlags.Fixed);
            rig.Lab.Write(Huge, 33);
            return (Huge - (40 * Lab.Page), size);
        },
        ["memfd_secret"] = (rig, size, pages) => (rig.Lab.File(At, pages, FileKind.Secret, MapFlags.Shared, Rw), size),
        ["MADV_HWPOISON page 5"] = (rig, size, pages) =>
        {
            Anon(rig, size, pages, Written);
            rig.Machine.Madvise(rig.Lab.Space, At + (5 * Lab.Page), Lab.Page, Advice.HwPoison);
            return (At, size);
        },
        ["MADV_DONTNEED after write"] = (rig, size, pages) =>
        {
            Anon(rig, size, pages, Written);
            rig.Machine.Madvise(rig.Lab.Space, At, (ulong)pages * Lab.Page, Advice.DontNeed);
            return (At, size);
        },
        ["MADV_DONTFORK"] = (rig, size, pages) =>
        {
            Anon(rig, size, pages, Written);
            rig.Machine.Madvise(rig.Lab.Space, At, (ulong)pages * Lab.Page, Advice.DontFork);
            return (At, size);
        },
    };

    public static TheoryData<string, string> Cells()
    {
        var cells = new TheoryData<string, string>();
        var columns = Lines()[0];
        foreach (var line in Lines().Skip(1))
            for (var column = 1; column < columns.Length; column++)
                if (line[column] != "-") cells.Add(line[0], columns[column]);
        return cells;
    }

    [Fact]
    public void Every_row_has_a_recipe() =>
        Assert.DoesNotContain(
            Lines().Skip(1).Select(line => line[0]), row => !Recipes.ContainsKey(row) && !IsOtherNode(row));

    [Theory]
    [MemberData(nameof(Cells))]
    public async Task Vivid_answers_as_it_did(string row, string column)
    {
        var lines = Lines();
        var expected = lines.Single(line => line[0] == row)[Array.IndexOf(lines[0], column)];
        var (profile, isOutput) = (column.Split(' ')[0], column.EndsWith("output", StringComparison.Ordinal));
        await using var rig = await VividRig.CreateAsync(
            daemon, profile, new VividOptions { IsOutput = isOutput, FramesPerSecond = 0 });
        Assert.Equal(expected, await RunAsync(rig, row, isOutput));
    }

    private static bool IsOtherNode(string row) =>
        row.EndsWith("vb2 MMAP buffer of other node", StringComparison.Ordinal);

    private static string[][] Lines() =>
        [.. File.ReadAllLines(Path.Combine(AppContext.BaseDirectory, "Data", "oracle", "vivid-userptr.tsv")).Select(
            line => line.Split('\t'))];

    private static async Task<string> RunAsync(VividRig rig, string row, bool isOutput)
    {
        var device = rig.Device;
        // Sizes of the measured pictures: 230,400 and 259,200 bytes.
        await device.SetFormatAsync("YUYV", isOutput ? 480 : 320, isOutput ? 270 : 360);
        var size = (await device.GetFormatAsync()).Format.Planes[0].SizeImage;
        var pages = (int)((size + 4095) / 4096);
        for (var i = 0UL; i < 2; i++) rig.Lab.Anon(Good + (i * 0x100_0000), pages);
        var (address, length) = IsOtherNode(row)
            ? (await OtherNodeAsync(rig, row), size)
            : Recipes[row](rig, size, pages);
        var said = new List<string>();
        var begin = rig.Pins;
        var (_, requested) = await device.RequestBuffersAsync(3, UserPtr);
        said.Add($"REQBUFS {requested.Count}");
        var before = rig.Pins;
        var (queued, _) = await device.QueueUserPtrAsync(0, address, length, isOutput ? Math.Min(size, length) : 0);
        said.Add($"QBUF {Text(queued)} (pin {Delta(before, rig.Pins)})");
        for (var i = 1U; i <= (isOutput ? 2U : 1); i++)
            Assert.Equal(
                Errno.None, (await device.QueueUserPtrAsync(
                    i, Good + ((i - 1) * 0x100_0000UL), (uint)pages * 4096, isOutput ? size : 0)).Errno);
        said.Add($"STREAMON {Text(await device.StreamOnAsync())}");
        for (var i = 0; i < (queued == Errno.None ? 2 : 1); i++)
        {
            var (errno, buffer) = await device.DequeueAsync(UserPtr).WaitAsync(TimeSpan.FromSeconds(20));
            said.Add(errno == Errno.None
                ? $"DQBUF ok idx{buffer.Index} flags used{buffer.Planes[0].BytesUsed}"
                : $"DQBUF {errno}");
        }

        if (!isOutput && queued == Errno.None && rig.Sum(address) is { } head)
            said.Add($"data sum head {head} tail {rig.Sum(address + size)}");
        said.Add($"STREAMOFF {Text(await device.StreamOffAsync())}");
        said.Add(
            $"REQBUFS0 {Text((await device.RequestBuffersAsync(0, UserPtr)).Errno)} "
            + $"(total pin {Delta(begin, rig.Pins)})");
        return string.Join(" | ", said);
    }

    /// <summary>
    /// A buffer that another vivid node allocated: dma-contig (PFNMAP, IO) or vmalloc (MIXEDMAP), as the row's VmFlags
    /// say.
    /// </summary>
    private static async Task<ulong> OtherNodeAsync(VividRig rig, string row)
    {
        var isContig = row.Contains(" pf ", StringComparison.Ordinal);
        await rig.ServeAsync(
            "video1", new VividOptions
            {
                Allocator = isContig
                ? VividAllocator.DmaContig
                : VividAllocator.Vmalloc,
                FramesPerSecond = 0
            });
        await using var other = await rig.OpenAsync("video1", rig.SpaceName);
        Assert.Equal(2U, (await other.RequestBuffersAsync(2, (uint)Vb2Memory.Mmap)).Answer.Count);
        var (_, buffer) = await other.QueryAsync(0);
        Assert.Equal(460_800U, buffer.Planes[0].Length);
        var (errno, address) = await other.File.MapAsync(
            rig.SpaceName, buffer.Planes[0].Length, 3, 1, buffer.Planes[0].Offset);
        Assert.Equal(Errno.None, errno);
        // As the row has them; the order is the kernel's.
        var maps = await rig.Daemon.Client.AddressSpaces.GetMapsAsync(
            new V1.GetMapsRequest { AddressSpace = rig.SpaceName });
        var flags = row[(row.IndexOf("VmFlags: ", StringComparison.Ordinal) + 9)..row.IndexOf(
            "  vb2", StringComparison.Ordinal)];
        Assert.Equal(flags, maps.Entries.Single(entry => entry.Start == address).VmFlags.Trim());
        // Closed here: the mapping keeps the buffer, as an orphan.
        return address;
    }

    private static (ulong Address, uint Length) Anon(VividRig rig, uint size, int pages, byte? fill = null)
    {
        rig.Lab.Anon(At, pages, written: false);
        if (fill is { } value) rig.Fill(At, pages, value);
        return (At, size);
    }

    private static (ulong Address, uint Length) Protected(VividRig rig, uint size, int pages)
    {
        Anon(rig, size, pages, Written);
        rig.Machine.Mprotect(rig.Lab.Space, At, (ulong)pages * Lab.Page, Prot.None);
        return (At, size);
    }

    private static (ulong Address, uint Length) Hole(VividRig rig, uint size, int pages, int first, int count)
    {
        Anon(rig, size, pages, Written);
        rig.Machine.Munmap(rig.Lab.Space, At + ((ulong)first * Lab.Page), (ulong)count * Lab.Page);
        return (At, size);
    }

    private static (ulong Address, uint Length) Shifted(VividRig rig, uint size, int pages, ulong shift)
    {
        rig.Lab.Anon(At, pages);
        rig.Fill(At, pages, 1);
        return (At + shift, size);
    }

    private static ulong Disk(VividRig rig, int pages, MapFlags type, Prot prot, bool openWrite = true,
        int filePages = -1, byte content = OnDisk)
    {
        var bytes = (filePages < 0 ? pages : filePages) * 4096;
        var file = rig.Machine.CreateFile("/disk", FileKind.Disk, 0)!;
        var all = new byte[bytes];
        all.AsSpan().Fill(content);
        Assert.Equal(bytes, rig.Machine.WriteFile(file, 0, all, out _));
        rig.Machine.Fsync(file);
        return rig.Lab.MapFile(At, pages, file, type, prot, openWrite);
    }

    private static string Text(Errno errno) => errno == Errno.None ? "ok" : errno.ToString();

    private static string Delta((long Acquired, long Released) from, (long Acquired, long Released) to) =>
        string.Create(CultureInfo.InvariantCulture, $"+{to.Acquired - from.Acquired}/-{to.Released - from.Released}");
}

using FramePin.Core.Abi;
using FramePin.Core.Access;
using FramePin.Core.Backing;
using FramePin.Core.Frames;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Tests.Support;
using Xunit;

namespace FramePin.Tests.Conformance;

/// <summary>
/// Lives of io_uring's registered buffers as kernel 6.18 answered them (pin-lifecycle-6.18): each case of the file,
/// made anew.
/// </summary>
public sealed class LifecycleTests
{
    private const ulong At = 0x1000_0000;

    private static readonly Dictionary<int, Action<Lab>> Cases = new()
    {
        [1] = lab =>
        {
            lab.Anon(At, 4);
            var before = lab.Machine.Pagemap(lab.Space, At, 4);
            var vector = Register(lab, 4);
            Assert.Equal(before, lab.Machine.Pagemap(lab.Space, At, 4));
            Assert.Equal(4, lab.Machine.PinStatistics.Acquired);
            Assert.Equal(0, lab.Machine.PinStatistics.Released);
            lab.Drop(vector);
        },
        [2] = lab =>
        {
            lab.Anon(At, 2);
            var vector = Register(lab, 1);
            var (pinned, other) = (lab.ViewAt(At).Pfn, lab.ViewAt(At + Lab.Page).Pfn);
            var child = lab.Fork();
            Assert.Equal(pinned, lab.ViewAt(At).Pfn);
            Assert.NotEqual(pinned, lab.ViewAt(At, child).Pfn);
            Assert.Equal(other, lab.ViewAt(At + Lab.Page, child).Pfn);
            lab.Drop(vector);
        },
        [3] = lab => Survives(lab, () => lab.Machine.Mprotect(lab.Space, At, Lab.Page, Prot.None)),
        [4] = lab =>
        {
            Survives(lab, () => lab.Machine.Madvise(lab.Space, At, Lab.Page, Advice.DontNeed));
            Assert.Equal(0, lab.Peek(At));
            Assert.True((lab.ViewAt(At).Flags & FrameFlags.Zero) != 0);
        },
        [5] = lab => Survives(lab, () => lab.Machine.Munmap(lab.Space, At, Lab.Page)),
        [6] = lab =>
        {
            lab.Anon(At, 4);
            var vector = Register(lab, 4);
            lab.Machine.PutVaddrFrames(vector);
            lab.Machine.PutVaddrFrames(vector);
            Assert.Equal(4, lab.Machine.PinStatistics.Released);
            lab.Drop(vector);
            var ring = Setup(lab);
            Assert.Equal(Errno.ENXIO, ring.Unregister().Error);
            Assert.True(ring.Register((At, Lab.Page)).IsOk);
            Assert.Equal(Errno.EBUSY, ring.Register((At, Lab.Page)).Error);
        },
        [7] = lab =>
        {
            lab.Anon(At, 1);
            var ring = Setup(lab);
            Assert.True(ring.Register([.. Enumerable.Repeat((At, Lab.Page), 64)]).IsOk);
            Assert.Equal(64, lab.Machine.PinStatistics.Acquired);
            Assert.Equal(64, lab.Space.PinnedPages);
        },
        [8] = lab =>
        {
            lab.Anon(At, 2);
            var ring = Setup(lab);
            Assert.True(ring.Register([.. Enumerable.Repeat((0UL, 0UL), Ring.MaxBuffers)]).IsOk);
            Assert.True(ring.Unregister().IsOk);
            Assert.Equal(Errno.EINVAL, ring.Register([.. Enumerable.Repeat((0UL, 0UL), Ring.MaxBuffers + 1)]).Error);
            Assert.Equal(Errno.EFAULT, ring.Register().Error);
            Assert.Equal(Errno.EFAULT, Try(lab, At, 0));
            Assert.Equal(Errno.EFAULT, Try(lab, 0, 1));
            Assert.Equal(Errno.None, Try(lab, At, 1));
            Assert.Equal(Errno.None, Try(lab, At + 5, 4096));
            Assert.Equal(Errno.EFAULT, Try(lab, At, (1UL << 30) + 1));
        },
        [9] = lab =>
        {
            var file = lab.Machine.CreateFile("/memfd", FileKind.Shmem, Lab.Page)!;
            lab.MapFile(At, 1, file, MapFlags.Shared, Prot.Read | Prot.Write);
            var vector = Register(lab, 1);
            Assert.True(lab.Machine.Munmap(lab.Space, At, Lab.Page).IsOk);
            Assert.Equal(Errno.EBUSY, lab.Machine.SealWrite(file));
            lab.Drop(vector);
            Assert.Equal(Errno.None, lab.Machine.SealWrite(file));
        },
        [10] = lab =>
        {
            var file = lab.Machine.CreateFile("/memfd", FileKind.Shmem, Lab.Page)!;
            lab.MapFile(At, 1, file, MapFlags.Shared, Prot.Read | Prot.Write);
            lab.Poke(At, (byte)'M');
            var vector = Register(lab, 1);
            Assert.Equal(Errno.None, lab.Machine.PunchHole(file, 0, Lab.Page));
            Assert.Equal(0, lab.Peek(At));
            Assert.Equal((byte)'M', lab.PeekFrame(vector));
            Assert.NotEqual(lab.View(vector).Pfn, lab.ViewAt(At).Pfn);
            lab.Drop(vector);
        },
        [11] = lab =>
        {
            lab.Anon(At, 1);
            lab.Fork();
            var before = lab.ViewAt(At).Pfn;
            var vector = Register(lab, 1);
            Assert.NotEqual(before, lab.ViewAt(At).Pfn);
            lab.Drop(vector);
        },
        [12] = lab =>
        {
            lab.Anon(At, 2);
            lab.Fork();
            var (direct, spliced) = (lab.ViewAt(At).Pfn, lab.ViewAt(At + Lab.Page).Pfn);
            Assert.True(lab.Machine.DirectIo(lab.Space, At, new byte[Lab.Page], isRead: false).IsOk);
            Assert.NotEqual(direct, lab.ViewAt(At).Pfn);
            var pipe = new List<FrameVector>();
            Assert.True(lab.Machine.Vmsplice(lab.Space, At + Lab.Page, Lab.Page, 1, pipe).IsOk);
            Assert.Equal(spliced, lab.ViewAt(At + Lab.Page).Pfn);
            lab.Drop([.. pipe]);
        },
        [13] = lab =>
        {
            lab.File(At, 1, FileKind.Disk, MapFlags.Private, Prot.Read | Prot.Write);
            lab.Load(At, 1);
            var before = lab.ViewAt(At);
            var vector = Register(lab, 1);
            Assert.NotEqual(before.Pfn, lab.ViewAt(At).Pfn);
            Assert.True((before.Flags & FrameFlags.Anon) == 0 && (lab.ViewAt(At).Flags & FrameFlags.Anon) != 0);
            lab.Drop(vector);
        },
        [14] = lab =>
        {
            lab.Anon(At, 1, written: false);
            lab.Load(At, 1);
            Assert.True((lab.ViewAt(At).Flags & FrameFlags.Zero) != 0);
            var vector = Register(lab, 1);
            Assert.True((lab.ViewAt(At).Flags & FrameFlags.Zero) == 0);
            lab.Drop(vector);
        },
        [15] = lab =>
        {
            lab.Anon(At, 1);
            lab.Poke(At, (byte)'R');
            var vector = Register(lab, 1);
            const ulong target = At + 0x10_0000;
            Assert.True(lab.Machine.Mremap(
                lab.Space, At, Lab.Page, Lab.Page, MremapFlags.MayMove | MremapFlags.Fixed, target).IsOk);
            Assert.Equal(lab.View(vector).Pfn, lab.ViewAt(target).Pfn);
            Assert.Equal((byte)'R', lab.PeekFrame(vector));
            lab.Drop(vector);
        },
        [16] = lab =>
        {
            lab.Anon(At, 64);
            var vector = Register(lab, 32);
            var before = Enumerable.Range(0, 64).Select(page => lab.ViewAt(At + ((ulong)page * Lab.Page)).Pfn).ToList();
            Assert.True(lab.Machine.Compact() > 0);
            var moved = before.Select((pfn, page) => lab.ViewAt(At + ((ulong)page * Lab.Page)).Pfn != pfn).ToList();
            Assert.DoesNotContain(true, moved[..32]);
            Assert.Contains(true, moved[32..]);
            lab.Drop(vector);
        },
        [17] = lab =>
        {
            lab.File(At, 4, FileKind.Disk, MapFlags.Private, Prot.Read);
            lab.Load(At, 4);
            Assert.True(lab.Machine.Madvise(lab.Space, At, 4 * Lab.Page, Advice.PageOut).IsOk);
            Assert.All(lab.Machine.Pagemap(lab.Space, At, 4), entry => Assert.Equal(0UL, entry));
            // Without swap anonymous pages stay, and so does what is pinned.
            lab.Anon(At, 2);
            var vector = Register(lab, 1);
            Assert.True(lab.Machine.Madvise(lab.Space, At, 2 * Lab.Page, Advice.PageOut).IsOk);
            Assert.All(lab.Machine.Pagemap(lab.Space, At, 2), entry => Assert.True(entry >> 63 != 0));
            lab.Drop(vector);
        },
        [19] = lab =>
        {
            lab.Anon(At, 80);
            lab.Machine.SetTask(
                lab.Space, lab.Space.Task with { RlimitMemlock = 64 << 10, User = 65534, CanLockMemory = false });
            var ring = Setup(lab);
            Assert.True(ring.Register((At, 8 * Lab.Page)).IsOk);
            Assert.Equal(8, lab.Space.PinnedPages);
            Assert.True(ring.Unregister().IsOk);
            Assert.Equal(0, lab.Space.PinnedPages);
            Assert.Equal(Errno.ENOMEM, ring.Register((At, 17 * Lab.Page)).Error);
            Assert.Equal(Errno.ENOMEM, ring.Register((At, 64 * Lab.Page)).Error);
            Assert.Equal(Errno.ENOMEM, lab.Machine.Mlock(lab.Space, At, 17 * Lab.Page).Error);
            Assert.Equal(lab.Machine.PinStatistics.Acquired, lab.Machine.PinStatistics.Released);
        },
        [20] = lab =>
        {
            lab.Anon(At, 100);
            var child = lab.Fork();
            var ring = lab.Machine.SetupRing(child, out _)!;
            Assert.True(ring.Register((At, 100 * Lab.Page)).IsOk);
            lab.Machine.Exit(child);
            Assert.Equal(100, lab.Machine.PinStatistics.Acquired);
            Assert.Equal(100, lab.Machine.PinStatistics.Released);
        },
        [18] = lab =>
        {
            const ulong huge = 2UL << 20;
            lab.Anon(huge * 200, 512, written: false);
            lab.Machine.Madvise(lab.Space, huge * 200, huge, Advice.HugePage);
            lab.Write(huge * 200, 1);
            var vector = lab.Vector(1);
            Assert.True(lab.Machine.RegisterBuffer(lab.Space, (huge * 200) + (7 * Lab.Page), Lab.Page, vector).IsOk);
            Assert.True(lab.Machine.Madvise(lab.Space, (huge * 200) + (huge / 2), huge / 2, Advice.DontNeed).IsOk);
            var child = lab.Fork();
            foreach (var page in new ulong[] { 0, 7 })
                Assert.NotEqual(lab.ViewAt((huge * 200) + (page * Lab.Page)).Pfn,
                    lab.ViewAt((huge * 200) + (page * Lab.Page), child).Pfn);
            lab.Drop(vector);
        },
        [22] = lab =>
        {
            lab.Anon(At, 2);
            var vector = Register(lab, 1);
            var fd = lab.Machine.CreateUserfaultfd(lab.Space, out _)!;
            Assert.True(lab.Machine.RegisterUffd(fd, At, 2 * Lab.Page, UffdModes.WriteProtect).IsOk);
            Assert.True(lab.Machine.WriteProtectUffd(fd, At, 2 * Lab.Page, isOn: true).IsOk);
            // Present, exclusive, write-protected by userfaultfd: bits 63, 56 and 57.
            Assert.Equal(0x83UL, lab.Machine.Pagemap(lab.Space, At, 1)[0] >> 56);
            Assert.Equal(UserSignal.SigBus, lab.Machine.Touch(lab.Space, At, isWrite: true));
            Assert.Equal(Errno.EFAULT, lab.Machine.Madvise(lab.Space, At, Lab.Page, Advice.PopulateWrite).Error);
            Assert.Equal(UserSignal.None, lab.Machine.Touch(lab.Space, At, isWrite: false));
            // The pin does not ask the entry: the device goes on.
            Assert.Equal(1, lab.Machine.CopyFrames(vector, 0, [(byte)'U'], isWrite: true, out _));
            Assert.Equal((byte)'U', lab.Peek(At));
            Assert.True(lab.Machine.UnregisterUffd(fd, At, 2 * Lab.Page).IsOk);
            lab.Poke(At, (byte)'V');
            Assert.Equal((byte)'V', lab.PeekFrame(vector));
            lab.Drop(vector);
        },
        [21] = lab =>
        {
            lab.Anon(At, 1);
            lab.Poke(At, (byte)'F');
            var ring = Setup(lab);
            Assert.True(ring.Register((At, Lab.Page)).IsOk);
            lab.Machine.Exit(lab.Fork());
            Assert.Equal((byte)'F', lab.PeekFrame(ring.Buffers[0]!));
            Assert.True(ring.Unregister().IsOk);
        },
    };

    [Fact]
    public void Every_case_of_the_file_is_made()
    {
        var lines = File.ReadAllLines(
            Path.Combine(AppContext.BaseDirectory, "Data", "oracle", "pin-lifecycle-6.18.txt"));
        var numbers = lines.Where(line => line.StartsWith("== ", StringComparison.Ordinal)).Select(
            line => int.Parse(line.Split(' ')[1])).ToList();
        Assert.Equal(numbers, Cases.Keys.Order());
    }

    public static TheoryData<int> Numbers => [.. Cases.Keys];

    [Theory]
    [MemberData(nameof(Numbers))]
    public void A_case_ends_as_the_kernel_ended_it(int number)
    {
        using var lab = new Lab("6.18");
        Cases[number](lab);
    }

    private static FrameVector Register(Lab lab, int pages)
    {
        var vector = lab.Vector(pages);
        Assert.True(lab.Machine.RegisterBuffer(lab.Space, At, (ulong)pages * Lab.Page, vector).IsOk);
        return vector;
    }

    private static Ring Setup(Lab lab) =>
        lab.Machine.SetupRing(lab.Space, out var error) ?? throw new InvalidOperationException($"no ring: {error}");

    private static Errno Try(Lab lab, ulong address, ulong length)
    {
        var vector = lab.Vector(2);
        var result = lab.Machine.RegisterBuffer(lab.Space, address, length, vector);
        lab.Drop(vector);
        return result.Error;
    }

    /// <summary>The pin goes on seeing the byte that was there, whatever became of the mapping.</summary>
    private static void Survives(Lab lab, Func<SyscallResult> change)
    {
        lab.Anon(At, 1);
        lab.Poke(At, (byte)'A');
        var vector = Register(lab, 1);
        Assert.True(change().IsOk);
        Assert.Equal((byte)'A', lab.PeekFrame(vector));
        lab.Drop(vector);
    }
}

using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Backing;
using FramePin.Core.Inspection;
using FramePin.Core.Kernel;
using FramePin.Core.Machines;
using FramePin.Core.Pinning;
using FramePin.Core.Syscalls;
using FramePin.Core.Vmas;
using Xunit;

namespace FramePin.Tests.Simulation;

/// <summary>
/// Cases of taken ranges that the random commands do not reach: large folios, stacks, raw frames, pools of huge pages.
/// Each compares what is announced with the pages that go.
/// </summary>
public sealed class TakenRangeCaseTests : IDisposable
{
    private const ulong At = 0x4000_0000;
    private const ulong Page = 4096;
    private const ulong Huge = 2UL << 20;
    private const MapFlags Anonymous = MapFlags.Private | MapFlags.Anonymous | MapFlags.Fixed;
    private const Prot ReadWrite = Prot.Read | Prot.Write;

    private Machine _machine = null!;

    public void Dispose() => _machine.Dispose();

    [Fact]
    public void Cooling_a_part_of_a_huge_page_takes_the_pages_that_hold_zeroes()
    {
        var space = New(new MachineOptions
        {
            Profile = KernelProfile.Recorded,
            Memory = 16UL << 20,
            Thp = ThpMode.Always,
        });
        Map(space, At, Huge, Anonymous);
        Store(space, At);
        Check(space, new MadviseCall(space, At + (4 * Page), 4 * Page, Advice.Cold), At, Huge);
    }

    [Fact]
    public void A_store_below_a_stack_takes_the_pages_that_it_shares()
    {
        var layout = new AddressSpaceLayout { StackTop = 0x7FFF_0000_0000 };
        var space = New(new MachineOptions { Memory = 16UL << 20 }, layout);
        var bottom = layout.StackTop - layout.StackSize;
        Store(space, bottom);
        _machine.Call(new ForkCall(space, "child"));
        Check<TouchCall, AccessResult>(
            space, new TouchCall(space, bottom - Page, 2, IsWrite: true), bottom, Page);
    }

    [Fact]
    public void A_store_to_a_private_mapping_of_raw_frames_takes_the_device_s_frame()
    {
        var space = New(new MachineOptions { Memory = 16UL << 20 });
        var device = new DeviceId((int)_machine.Call(
            new CreateDeviceCall("/dev/raw", DeviceMapping.PfnMap, 4, true, false, true, false)).Value);
        var map = new MmapCall(space, At, 4 * Page, ReadWrite, MapFlags.Private | MapFlags.Fixed) { Device = device };
        Assert.True(_machine.Call(map).IsOk);
        Check<TouchCall, AccessResult>(space, new TouchCall(space, At + Page, 1, IsWrite: true), At + Page, Page);
    }

    [Fact]
    public void Every_huge_page_that_a_fork_loses_is_announced()
    {
        var space = New(new MachineOptions { Memory = 32UL << 20, HugePages2M = 3 });
        Map(space, At, 2 * Huge, Anonymous | MapFlags.HugeTlb);
        _machine.Execute<TouchCall, AccessResult>(new(space, At, (long)(2 * Huge / Page), IsWrite: true));
        var child = new SpaceId((int)_machine.Call(new ForkCall(space, "child")).Value);
        Check<TouchCall, AccessResult>(
            child, new TouchCall(space, At, (long)(2 * Huge / Page), IsWrite: true), At, 2 * Huge);
    }

    [Fact]
    public void A_store_announces_nothing_behind_the_guard_at_which_it_ends()
    {
        var space = New(new MachineOptions { Profile = KernelProfile.Recorded, Memory = 16UL << 20 });
        Map(space, At, 4 * Page, Anonymous);
        _machine.Execute<TouchCall, AccessResult>(new(space, At, 4, IsWrite: false));
        Assert.True(_machine.Call(new MadviseCall(space, At + Page, Page, Advice.GuardInstall)).IsOk);
        var taken = _machine.TakenBy(new TouchCall(space, At, 4, IsWrite: true));
        Assert.DoesNotContain(taken, range => range.Range.End > At + Page);
    }

    [Fact]
    public void A_long_term_read_pin_of_6_1_takes_the_cached_page_of_a_private_mapping()
    {
        var space = New(new MachineOptions
        {
            Profile = KernelProfile.Find("6.1")!,
            Memory = 16UL << 20,
            MovableMemory = 8UL << 20,
        });
        var file = new FileId((int)_machine.Call(new CreateFileCall("/f", FileKind.Shmem, 4 * Page)).Value);
        var shared = MapFlags.Shared | MapFlags.Fixed;
        Assert.True(_machine.Call(new MmapCall(space, At, 4 * Page, ReadWrite, shared) { File = file }).IsOk);
        Store(space, At);
        var other = new SpaceId((int)_machine.Call(
            new CreateSpaceCall("other", new AddressSpaceLayout(), new TaskState())).Value);
        var alone = MapFlags.Private | MapFlags.Fixed;
        Assert.True(_machine.Call(new MmapCall(other, At, 4 * Page, Prot.Read, alone) { File = file }).IsOk);
        using var vector = new Pinned(_machine);
        var request = new PinRequest(other, At, 1, GupFlags.LongTerm) { Call = GupCall.PinUserPages };
        var before = Frame(space, At);
        var taken = _machine.TakenBy(new PinCall(request, vector.Vector.Id, 1, 0));
        _machine.Pin(request, vector.Vector);
        Assert.NotEqual(before, Frame(space, At));
        Assert.Contains(taken, range => range.Space == space && range.Range.Contains(At));
    }

    [Fact]
    public void Write_protection_by_clear_refs_and_write_back_is_announced()
    {
        var space = New(new MachineOptions { Memory = 16UL << 20, TracksSoftDirty = true });
        Map(space, At, 4 * Page, Anonymous);
        Store(space, At + Page);
        var cleared = Assert.Single(_machine.TakenBy(new ClearSoftDirtyCall(space)));
        Assert.Equal((At + Page, TakeCause.WriteProtect), (cleared.Range.Start, cleared.Cause));

        var file = new FileId((int)_machine.Call(new CreateFileCall("/disk", FileKind.Disk, 4 * Page)).Value);
        var shared = MapFlags.Shared | MapFlags.Fixed;
        Assert.True(_machine.Call(new MmapCall(space, At * 2, 4 * Page, ReadWrite, shared) { File = file }).IsOk);
        Store(space, At * 2);
        var synced = Assert.Single(_machine.TakenBy(new MsyncCall(space, At * 2, 4 * Page, MsyncFlags.Sync)));
        Assert.Equal((At * 2, Page, TakeCause.WriteProtect), (synced.Range.Start, synced.Range.Length, synced.Cause));
        Assert.Equal(synced, Assert.Single(_machine.TakenBy(new FsyncCall(file))));
        Assert.Empty(_machine.TakenBy(new MsyncCall(space, At * 2, 4 * Page, MsyncFlags.Async)));
    }

    /// <summary>The command changes frames of a range, and each of them was announced.</summary>
    private void Check<TCommand, TResult>(SpaceId space, TCommand command, ulong start, ulong length)
        where TCommand : struct, ICommand<TCommand, TResult>, IInvalidating
    {
        var taken = _machine.TakenBy(command);
        var before = Frames(space, start, length);
        _machine.Execute<TCommand, TResult>(command);
        var after = Frames(space, start, length);
        var changed = Enumerable.Range(0, after.Count).Where(i => after[i] != before[i]).ToList();
        Assert.NotEmpty(changed);
        foreach (var at in changed.Select(i => start + ((ulong)i * Page)))
            Assert.True(
                taken.Any(range => range.Space == space && range.Range.Contains(at)),
                $"0x{at:x} was not announced, but {string.Join(", ", taken)}");
    }

    private void Check<TCommand>(SpaceId space, TCommand command, ulong start, ulong length)
        where TCommand : struct, ISyscall<TCommand>, IInvalidating =>
        Check<TCommand, SyscallResult>(space, command, start, length);

    private SpaceId New(MachineOptions options, AddressSpaceLayout? layout = null)
    {
        _machine = new Machine("case", options);
        return new SpaceId((int)_machine.Call(
            new CreateSpaceCall("s", layout ?? new AddressSpaceLayout(), new TaskState())).Value);
    }

    private void Map(SpaceId space, ulong at, ulong length, MapFlags flags) =>
        Assert.True(_machine.Call(new MmapCall(space, at, length, ReadWrite, flags)).IsOk);

    private void Store(SpaceId space, ulong at) =>
        Assert.Equal(1, _machine.Execute<StoreCall, AccessResult>(new(space, at, [7])).Done);

    private Pfn? Frame(SpaceId space, ulong at) => _machine.Query<TranslateQuery, Pfn?>(new(space, at));

    private List<Pfn?> Frames(SpaceId space, ulong start, ulong length) =>
        [.. Enumerable.Range(0, (int)(length / Page)).Select(i => Frame(space, start + ((ulong)i * Page)))];

    private sealed class Pinned(Machine machine) : IDisposable
    {
        public FrameVector Vector { get; } = machine.CreateVector(1)!;

        public void Dispose()
        {
            machine.Put(Vector, isDirty: false);
            machine.DestroyVector(Vector);
        }
    }
}

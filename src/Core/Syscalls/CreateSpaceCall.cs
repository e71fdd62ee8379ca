using FramePin.Core.Abi;
using FramePin.Core.Addressing;
using FramePin.Core.Faults;
using FramePin.Core.Kernel;
using FramePin.Core.Vmas;

namespace FramePin.Core.Syscalls;

/// <summary>A new process with an empty address space, and its initial stack where the layout has one.</summary>
/// <param name="Name">Last segment of the resource name.</param>
/// <param name="Layout">Where the address space keeps its fixed parts.</param>
/// <param name="Task">Limits, capabilities and signals of the task.</param>
/// <returns>The number of the address space; -ENOMEM when no page table is left.</returns>
public readonly record struct CreateSpaceCall(string Name, AddressSpaceLayout Layout, TaskState Task)
    : ISyscall<CreateSpaceCall>
{
    public SyscallResult Run(in Turn turn)
    {
        if (Make(turn.Kernel, Name, Layout, Task) is not { } space) return Errno.ENOMEM;
        if (Layout.StackTop != 0)
        {
            var start = Layout.StackTop - PageGeometry.AlignUp(Layout.StackSize, PageGeometry.PageSize);
            InstallMappingCall.Install(turn.Kernel, space, new InstalledMapping
            {
                Range = new AddressRange(start, Layout.StackTop),
                Prot = Prot.Read | Prot.Write,
                Kind = InstalledKind.Stack,
            });
        }

        return SyscallResult.Ok((ulong)space.Id.Value);
    }

    public void Write(CommandWriter writer)
    {
        writer.Add(Name).Add(Layout.MmapBase).Add(Layout.StartBrk).Add(Layout.DataSize).Add(Layout.StackTop);
        writer.Add(Layout.StackSize);
        SetTaskCall.Write(writer, Task);
    }

    public static CreateSpaceCall Read(ref CommandReader reader) => new(
        reader.Name(),
        new AddressSpaceLayout
        {
            MmapBase = reader.U64(),
            StartBrk = reader.U64(),
            DataSize = reader.U64(),
            StackTop = reader.U64(),
            StackSize = reader.U64(),
        },
        SetTaskCall.ReadTask(ref reader));

    /// <summary>An address space whose huge leaves can be cut; null when no page table is left.</summary>
    internal static AddressSpace? Make(KernelState kernel, string name, AddressSpaceLayout layout, TaskState task)
    {
        if (kernel.AddSpace(name, layout, task) is not { } space) return null;
        space.CutLeaf = address => Mapping.SplitAt(kernel, space, address);
        return space;
    }
}
